"""libpq by ctypes: the calls that sessions need, and no more.

Plain Python has no driver, and this test must run wherever psql does.  A driver
would also hide what it is about: when a COMMIT is on its way, when the answer
has come, and what is known of it when the connection is gone.
"""
import ctypes
import select
import time

from ctypes import POINTER, c_char_p, c_int, c_void_p

pq = ctypes.CDLL('libpq.so.5')


def declare(name, result, *arguments):
    function = getattr(pq, name)
    function.restype, function.argtypes = result, arguments
    return function


connect_start = declare('PQconnectStart', c_void_p, c_char_p)
connect_poll = declare('PQconnectPoll', c_int, c_void_p)
finish = declare('PQfinish', None, c_void_p)
status = declare('PQstatus', c_int, c_void_p)
transaction_status = declare('PQtransactionStatus', c_int, c_void_p)
socket = declare('PQsocket', c_int, c_void_p)
backend_pid = declare('PQbackendPID', c_int, c_void_p)
error_message = declare('PQerrorMessage', c_char_p, c_void_p)
exec_simple = declare('PQexec', c_void_p, c_void_p, c_char_p)
exec_params = declare('PQexecParams', c_void_p, c_void_p, c_char_p, c_int, c_void_p, POINTER(c_char_p), c_void_p, c_void_p, c_int)
send_query = declare('PQsendQuery', c_int, c_void_p, c_char_p)
send_query_params = declare('PQsendQueryParams', c_int, c_void_p, c_char_p, c_int, c_void_p, POINTER(c_char_p), c_void_p, c_void_p, c_int)
flush = declare('PQflush', c_int, c_void_p)
result_status = declare('PQresultStatus', c_int, c_void_p)
result_field = declare('PQresultErrorField', c_char_p, c_void_p, c_int)
command_status = declare('PQcmdStatus', c_char_p, c_void_p)
clear = declare('PQclear', None, c_void_p)
ntuples = declare('PQntuples', c_int, c_void_p)
nfields = declare('PQnfields', c_int, c_void_p)
get_value = declare('PQgetvalue', c_char_p, c_void_p, c_int, c_int)
get_is_null = declare('PQgetisnull', c_int, c_void_p, c_int, c_int)
Notice = ctypes.CFUNCTYPE(None, c_void_p, c_char_p)
set_notice_processor = declare('PQsetNoticeProcessor', c_void_p, c_void_p, Notice, c_void_p)

COMMAND_OK, TUPLES_OK = 1, 2
BAD = 1
READING, WRITING, CONNECTED = 1, 2, 3
PATIENCE = 10                   # seconds to connect
SQLSTATE, MESSAGE = ord('C'), ord('M')


class Lost(Exception):
    """The connection is gone: nobody knows what became of the call."""


class Failed(Exception):
    """An ERROR, with its SQLSTATE; the connection lives."""

    def __init__(self, sqlstate, message):
        super().__init__(f'{sqlstate}: {message}')
        self.sqlstate = sqlstate


class Connection:
    def __init__(self, conninfo):
        self.notices = []
        self.conn = connect_start(conninfo.encode())
        # before anything is said: libpq would print it
        self.processor = Notice(lambda _, words: self.notices.append(words.decode(errors='replace')))
        set_notice_processor(self.conn, self.processor, None)
        if not self.connect():
            why = error_message(self.conn).decode(errors='replace').strip()
            self.close()
            raise Lost(why)

    def connect(self):
        if status(self.conn) == BAD:
            return False
        state, deadline = WRITING, time.monotonic() + PATIENCE
        while state in (READING, WRITING):
            watched = [socket(self.conn)]
            ready = select.select(watched if state == READING else [], watched if state == WRITING else [], [], PATIENCE)
            if not any(ready) or time.monotonic() > deadline:
                return False
            state = connect_poll(self.conn)
        return state == CONNECTED

    def close(self):
        if self.conn:
            finish(self.conn)
            self.conn = None

    def pid(self):
        return backend_pid(self.conn)

    def query(self, sql, parameters=None):
        """The rows, as lists of strings and None.  Text in, text out."""
        if parameters is None:
            result = exec_simple(self.conn, sql.encode())
        else:
            result = exec_params(self.conn, sql.encode(), len(parameters), None, values_of(parameters), None, None, 0)
        return self.rows(result)

    def rows(self, result):
        try:
            state = (result_field(result, SQLSTATE) or b'').decode()
            bad = result_status(result) not in (COMMAND_OK, TUPLES_OK)
            if status(self.conn) != 0 or (bad and not state):
                raise Lost(error_message(self.conn).decode(errors='replace').strip())
            if bad:
                words = (result_field(result, MESSAGE) or error_message(self.conn) or b'').decode(errors='replace')
                raise Failed(state, words)
            self.tag = command_status(result).decode()
            columns = range(nfields(result))
            return [[None if get_is_null(result, row, column) else get_value(result, row, column).decode()
                     for column in columns] for row in range(ntuples(result))]
        finally:
            clear(result)

    def send_and_leave(self, sql, parameters=None):
        """Sends it, and goes away without the answer."""
        if parameters is None:
            send_query(self.conn, sql.encode())
        else:
            send_query_params(self.conn, sql.encode(), len(parameters), None, values_of(parameters), None, None, 0)
        flush(self.conn)
        self.close()

    def sync_was_given_up(self):
        """A commit is on this server and perhaps not on its standby."""
        given_up = any('canceling wait for synchronous' in words for words in self.notices)
        self.notices.clear()
        return given_up


def values_of(parameters):
    return (c_char_p * len(parameters))(*[None if p is None else str(p).encode() for p in parameters])


def array(values):
    """A text[] in its text form."""
    quoted = ['NULL' if v is None else '"' + str(v).replace('\\', '\\\\').replace('"', '\\"') + '"' for v in values]
    return '{' + ','.join(quoted) + '}'

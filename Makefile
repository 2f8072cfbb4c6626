# coupon: first-come-first-served sales inside PostgreSQL
#
#   make, make install, make installcheck, make clean     as in any extension
#   make test     build, check, run every test on private servers
#   make test-sanitized    the same with coupon built for AddressSanitizer and UBSan
#   make valgrind     a small sale under valgrind
#   make coverage     the same with coupon built for gcov: the share of lines that are run
#   make mutants      plants the bugs of test/mutants/, and shows what catches each
#   make chaos    build, an hour of a sale in which everything is broken, held
#                 against its laws (CHAOS_TIME=600: ten minutes); test/chaos
#   make demo     build, run the two sales of the demo on a private server
#   make cluster  build, a sale on three nodes and a proxy: one is killed, one added
#   make serve    a private server that serves HTTP, with routes to try, until Ctrl-C
#   make bench    build, coupon beside its peers: SQL, PgQ, Redis, Redis and
#                 Kafka (an hour and a half); doc/benchmarks.md
#   make bench-quick    build, the figures that matter, with what an issue costs
#                 and where the time goes, beside the last stored ones (10 minutes)
#   make bench-figures    build, each figure that must be reached: measured,
#                 required, pass or FAIL (an hour; BENCH_FIGURES="wal memory": some)
#   make bench-scenarios    build, the load scenarios of the source documents,
#                 thresholds with pass or FAIL (25 minutes; BENCH_SCALE=0.1: 4)
#   make kafka    a real Kafka to try it with, until Ctrl-C; needs Java and Maven
#   make format   the sources in PostgreSQL's layout; check-format only looks
#   make lint     shellcheck on the scripts, cppcheck and scan-build on src/
#   make fresh-machines   both commands above on new machines of many kinds, in
#                 chroots (as root, with debootstrap; half an hour)
#   make check-layers                                     who includes whom
#   make check-sql        is coupon--VERSION.sql what the pieces in sql/ make
#   make deb      Debian packages, in tmp_deb/; make deb-test: they are built,
#                 installed, tried and purged on new machines, in chroots (as
#                 root, with debootstrap; a quarter of an hour)
#   make dist     the distribution for PGXN: what is committed, in tmp_dist/
#
# test, demo, bench and deb install what they need with apt-get when it is
# missing, and touch no PostgreSQL installation or cluster of yours.  They
# build without a word but the compiler's; V=1 shows each command.

MODULE_big = coupon
EXTENSION = coupon
# The script of the version in coupon.control is made of the pieces in sql/; those
# of earlier versions, and from one version to the next, are kept as they were.
script := coupon--$(shell sed -n "s/^default_version = '\(.*\)'/\1/p" coupon.control).sql
DATA = $(sort $(script) $(wildcard coupon--*.sql)) $(wildcard src/front/pages/coupon-*)
# HTTP needs libmicrohttpd and libjwt (Debian: libmicrohttpd-dev, libjwt-dev);
# without them the rest is built, and says so when HTTP is asked for.
HAVE_HTTP := $(shell printf '\043include <%s>\n' stddef.h microhttpd.h jwt.h | $(CC) $(CPPFLAGS) -E - >/dev/null 2>&1 && echo yes)
# libjwt is not linked but opened, see src/front/token.c.
JWT_LIBRARY := $(shell objdump -p "$$($(CC) -print-file-name=libjwt.so)" 2>/dev/null | sed -n 's/^ *SONAME *//p')
OBJS = $(patsubst %.c,%.o,$(filter-out $(if $(HAVE_HTTP),src/front/listener_missing.c,src/front/listener.c src/front/token.c) \
	$(if $(findstring COUPON_FAULT_POINTS,$(COPT)),,src/base/fault.c), $(sort $(wildcard src/*.c src/*/*.c))))

# The two -Wno- are for idioms of PostgreSQL's own headers and macros.
PG_CFLAGS = -Wall -Wextra -Wshadow=local -Wno-unused-parameter -Wno-sign-compare -Wno-missing-field-initializers
PG_CPPFLAGS = -I$(srcdir)/src -I$(libpq_srcdir) -DCOUPON_JWT_LIBRARY='"$(JWT_LIBRARY)"'
ifneq ($(filter true 1,$(CI) $(WERROR)),)
PG_CFLAGS += -Werror
endif

# installcheck wants a running server with shared_preload_libraries = 'coupon',
# and no workers in the database isolation_regression.
# --outputdir=. lets pg_isolation_regress find expected/ where pg_regress does.
REGRESS = $(patsubst test/sql/%.sql,%,$(sort $(wildcard test/sql/*.sql)))
REGRESS_OPTS = --inputdir=test
# that of grouped calls needs workers in its database, and the others none
ISOLATION = $(filter-out grouped,$(patsubst test/specs/%.spec,%,$(sort $(wildcard test/specs/*.spec))))
ISOLATION_OPTS = --inputdir=test --outputdir=.

# Debian: librdkafka-dev
SHLIB_LINK = -lrdkafka $(libpq) $(if $(HAVE_HTTP),-lmicrohttpd) -lpthread

EXTRA_CLEAN = $(script).*.new tmp_install tmp_install_fault tmp_fault tmp_coverage tmp_mutants tmp_kafka tmp_bench tmp_log tmp_lint tmp_pages tmp_pgspot tmp_openapi tmp_clients tmp_grafana tmp_deb tmp_dist .built_for

# Scripts go into directories, and read what cd says of that with it.
unexport CDPATH

# A locale that this machine does not have makes each shell complain.
ifneq ($(shell locale 2>&1 >/dev/null),)
export LC_ALL := C.UTF-8
endif

PG_CONFIG ?= pg_config
pg_config_says := $(shell $(PG_CONFIG) --pgxs --includedir-server --version 2>/dev/null)
PGXS := $(word 1,$(pg_config_says))
server_headers := $(word 2,$(pg_config_says))
version := $(wordlist 3,4,$(pg_config_says))

# Debian's server and libpq-dev bring a pg_config, and no headers.
complete := $(and $(wildcard $(PGXS)),$(wildcard $(server_headers)/postgres.h))
ifneq ($(complete),)

include $(PGXS)

# It is kept in the repository.
all install: $(script)
$(script): sql coupon.control $(wildcard sql/*)
	@new=$@.$$$$.new; sql/build >$$new || { rm -f $$new; exit 1; }; \
	if cmp -s $$new $@; then rm $$new; touch $@; else echo 'sql/build >$@'; mv $$new $@; fi

# Says what to install where the headers of librdkafka are missing.
$(patsubst %.c,%.o,$(wildcard src/kafka/sink_kafka*.c)) $(patsubst %.c,%.bc,$(wildcard src/kafka/sink_kafka*.c)): | check-librdkafka
check-librdkafka:
	@echo '#include <librdkafka/rdkafka.h>' | $(CC) $(CPPFLAGS) -E - >/dev/null 2>&1 || { \
		echo 'No librdkafka/rdkafka.h: install the headers of librdkafka (Debian: librdkafka-dev).' >&2; exit 1; }

# Objects are for one PostgreSQL: with another one all is built anew.
built_for = $(PGXS) $(version) $(COPT)
ifneq ($(shell cat .built_for 2>/dev/null),$(strip $(built_for)))
$(shell echo '$(strip $(built_for))' >.built_for)
endif

# Any header may change any object; the whole build takes seconds.
$(OBJS) $(OBJS:.o=.bc): $(wildcard src/*/*.h) .built_for

else

ifeq ($(version),)
no_headers = cannot run $(PG_CONFIG).  Install the server headers of PostgreSQL (Debian: postgresql-server-dev-NN), or
else
no_headers = $(version), of which "$(PG_CONFIG)" tells, has no server headers here: $(server_headers)/postgres.h is \
	missing.  Install them (Debian: postgresql-server-dev-$(word 1,$(subst ., ,$(word 2,$(version))))), or
endif
no_headers += say where another PostgreSQL is: make PG_CONFIG=/path/to/pg_config.  \
	"make test" and "make demo" install what is missing themselves.

all install installcheck installdirs uninstall tmp_install tmp_install_fault test-run chaos-run demo-run cluster-run serve-run bench-run bench-quick-run bench-figures-run bench-scenarios-run:
	@echo '*** $(no_headers)' >&2; exit 1

clean:
	rm -rf $(OBJS) $(OBJS:.o=.bc) $(MODULE_big).so $(EXTRA_CLEAN)

endif

# V=1 shows the commands of private builds; -j as many as there are cores,
# unless make was told otherwise.
quietly = $(if $(filter 1,$(V)),,-s)
show = $(if $(filter 1,$(V)),set -x;)
jobs = $(if $(filter -j%,$(MAKEFLAGS)),,-j$(shell nproc 2>/dev/null))

# A private copy of the PostgreSQL installation with coupon in it.  Without
# bitcode: PGXS cannot install that below a path with a space.  Where two makes are
# at work in one checkout, one builds after the other.
ifneq ($(complete),)
tmp_install:
	@test/bin/alone $(MAKE) --no-print-directory tmp_install-alone

tmp_install-alone:
	@echo 'Building coupon for $(version)'
	@$(MAKE) --no-print-directory $(quietly) $(jobs) with_llvm=no all
	@$(show) test/bin/copy_postgres '$(PG_CONFIG)' tmp_install
	@$(MAKE) --no-print-directory $(quietly) with_llvm=no install DESTDIR='$(CURDIR)/tmp_install'

# The same with fault points (src/base/fault.h), which some tests arm.
# Not optimized: it is built while the tests run.
fault_flags = -DCOUPON_FAULT_POINTS -include postgres.h -include base/fault.h -O0 -Wno-cpp
tmp_install_fault:
	@[ -e tmp_install/paths.sh ] || $(MAKE) --no-print-directory tmp_install
	@test/bin/alone $(MAKE) --no-print-directory tmp_install_fault-alone

tmp_install_fault-alone:
	@test/bin/copy_sources tmp_fault
	@$(MAKE) --no-print-directory $(quietly) $(jobs) -C tmp_fault with_llvm=no COPT='$(strip $(COPT) $(fault_flags))' all
	@rm -rf tmp_install_fault && cp -al tmp_install tmp_install_fault
	@$(MAKE) --no-print-directory $(quietly) -C tmp_fault with_llvm=no COPT='$(strip $(COPT) $(fault_flags))' \
		install DESTDIR='$(CURDIR)/tmp_install_fault'

# TESTS: some of test/t/*.pl, and all unless it is given
test-run: tmp_install check-layers check-sql
	@test/bin/run_tests $(TESTS)

CHAOS_TIME ?= 3600
chaos-run: tmp_install tmp_install_fault kafka-programs
	@test/bin/chaos -p -t $(CHAOS_TIME) -d 120 -c 60 --rate 1000 --between 150 $(if $(CHAOS_SEED),-s $(CHAOS_SEED)) --release $(CHAOS)

demo-run: tmp_install kafka-programs tmp_bench/http_load
	@bench/demo.sh

cluster-run: tmp_install
	@bench/cluster.sh

serve-run: tmp_install kafka-programs
	@bench/serve.sh $(HTTP_PORT)

bench-run: tmp_install bench-programs
	@bench/run.sh

bench-quick-run: tmp_install bench-programs
	@BENCH_QUICK=$${BENCH_QUICK:-quick} bench/run.sh

bench-figures-run: tmp_install bench-programs
	@bench/figures/run.sh

bench-scenarios-run: tmp_install
	@bench/scenarios/run.sh
endif

# make reads pg_config's answer when it starts, so what has been installed
# in between is seen by a second make only.  Who only asks what would be done (-n, -q,
# -t) runs that, too, and installs nothing.
only_asks = $(strip $(foreach flag,n q t,$(findstring $(flag),$(firstword -$(MAKEFLAGS)))))
test chaos demo cluster serve bench bench-quick bench-figures bench-scenarios:
	@pg_config=$$($(if $(only_asks),echo '$(PG_CONFIG)',test/bin/install_dependencies '$(PG_CONFIG)' $@)) && \
		$(MAKE) --no-print-directory PG_CONFIG="$$pg_config" $@-run

# Memory errors and undefined behaviour in coupon, found by whatever the tests do
# (twice as slow).  With PG_CONFIG=... a server that was configured with
# --enable-cassert, which checks itself, too.
# With -O1 gcc takes for clobbered by longjmp what is not.
test-sanitized:
	@COUPON_SANITIZED=1 $(MAKE) --no-print-directory \
		COPT='-O1 -fsanitize=address,undefined -fno-omit-frame-pointer -Wno-clobbered' test

# A small sale by every function under valgrind (some minutes).
valgrind: tmp_install
	@test/bin/valgrind_run

# Which lines of src/ the tests run (three times as slow).
coverage:
	@test/bin/coverage $(TESTS)

# Planted bugs: does a test catch each?  MUTANTS: some of them, by name
mutants:
	@test/bin/mutants $(MUTANTS)

# What the tests of the publisher run beside it.
KAFKA_PROGRAMS = $(patsubst test/kafka/%.c,tmp_kafka/bin/%,$(sort $(wildcard test/kafka/*.c)))
KAFKA_CFLAGS = -std=gnu11 -O2 -g -Wall -Wextra -Wshadow -Wno-missing-field-initializers \
	$(if $(filter true 1,$(CI) $(WERROR)),-Werror)

kafka-programs: $(KAFKA_PROGRAMS)

tmp_kafka/bin/%: test/kafka/%.c
	@mkdir -p $(@D)
	@$(show) if echo '#include <librdkafka/rdkafka.h>' | $(CC) -E - >/dev/null 2>&1; then \
		$(CC) $(KAFKA_CFLAGS) -o $@.$$$$ $< -lrdkafka && mv $@.$$$$ $@; \
	else \
		echo 'skipped: $@, which needs the headers of librdkafka (Debian: librdkafka-dev)'; \
	fi

KAFKA_TOPICS = coupon-issued:12 coupon-issued.DLT:12
kafka: kafka-programs
	@test/bin/kafka run $(if $(KAFKA_PORT),-p $(KAFKA_PORT)) $(KAFKA_TOPICS)

# The peers' programs in C.  Where a library is missing, its peers are skipped.
tmp_bench/redis_load: BENCH_HEADERS = hiredis/hiredis.h librdkafka/rdkafka.h
tmp_bench/redis_load: BENCH_LIBS = -lhiredis -lrdkafka -lpthread
tmp_bench/consumer: BENCH_HEADERS = libpq-fe.h librdkafka/rdkafka.h
tmp_bench/consumer: BENCH_LIBS = -L$(shell $(PG_CONFIG) --libdir) -lpq -lrdkafka

bench-programs: tmp_bench/redis_load tmp_bench/consumer tmp_bench/http_load tmp_bench/http_streams

tmp_bench/%: bench/peers/%.c
	@mkdir -p $(@D)
	@$(show) if printf '#include <%s>\n' $(BENCH_HEADERS) | $(CC) -I'$(shell $(PG_CONFIG) --includedir)' -E - >/dev/null 2>&1; then \
		$(CC) $(KAFKA_CFLAGS) -I'$(shell $(PG_CONFIG) --includedir)' -o $@.$$$$ $< $(BENCH_LIBS) && mv $@.$$$$ $@; \
	else \
		echo 'skipped: $@, which needs: $(BENCH_HEADERS)'; \
	fi

tmp_bench/http_%: bench/http/%.c
	@mkdir -p $(@D)
	@$(show) $(CC) $(KAFKA_CFLAGS) -o $@.$$$$ $< -lm && mv $@.$$$$ $@

format:
	@test/bin/format

check-format:
	@test/bin/format -n

lint:
	@test/bin/lint '$(PG_CONFIG)'

fresh-machines:
	@test/bin/fresh_machines

deb:
	@test/bin/install_dependencies '$(PG_CONFIG)' $@ >/dev/null
	@test/bin/deb

deb-test:
	@test/bin/deb_test

dist:
	@test/bin/dist

check-layers:
	@test/bin/check_layers

check-sql: $(script)
	@test/bin/check_sql

.PHONY: check-librdkafka tmp_install tmp_install-alone tmp_install_fault tmp_install_fault-alone test test-run test-sanitized chaos chaos-run demo demo-run cluster cluster-run serve serve-run bench bench-run bench-quick bench-quick-run bench-figures bench-figures-run coverage mutants valgrind \
	bench-scenarios bench-scenarios-run kafka-programs kafka bench-programs \
	format check-format lint fresh-machines deb deb-test dist check-layers check-sql

#!/usr/bin/env bash
#
# serve.sh [PORT]
#
# A private server that serves HTTP until Ctrl-C: a campaign, a waiting room, some
# concerts, the neutral routes and those of examples/sources and
# examples/concert.  Run by "make serve"; the port may be given as HTTP_PORT=8080.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

if [ -z "${COUPON_SERVER_LOG:-}" ]; then
	# shellcheck source=bench/http/lib.sh
	. "$here/http/lib.sh"
	port=${1:-$(free_port)}
	export COUPON_HTTP=127.0.0.1:$port
	echo 'Starting a PostgreSQL server that nobody else uses'
	exec "$here/../test/bin/with_server" -c "coupon.http_listen=$COUPON_HTTP" -c coupon.http_role=coupon_web_anonymous \
		"$here/serve.sh"
fi

# it says that it listens, or why not: another program has the port
for _ in {1..600}; do
	said=$(grep -m 1 -oE 'coupon front (listens|cannot listen).*' "$COUPON_SERVER_LOG") || said=
	[ -z "$said" ] || break
	sleep 0.1
done
if [[ $said != 'coupon front listens'* ]]; then
	echo "serve: ${said:-the front does not start}" >&2
	exit 1
fi

psql -X -q -v ON_ERROR_STOP=1 -c 'CREATE EXTENSION coupon'
psql -X -q -v open=on -f "$here/../examples/sources/roles.sql"
for file in http api routes; do
	psql -X -q -f "$here/../examples/sources/$file.sql"
done
psql -X -q -A -t -v ON_ERROR_STOP=1 >/dev/null <<'END'
SELECT coupon_campaign_create('SPRING', 100, policy => '{"kind": "RATE", "rate": 10}');
SELECT coupon_room_create('default', 2);
END
for file in schema api routes load; do
	said=$(psql -X -q -v concerts=3 -v dates=4 -f "$here/../examples/concert/$file.sql" 2>&1) || { echo "$said" >&2; exit 1; }
done
cat <<END

The front listens on http://$COUPON_HTTP until Ctrl-C. Campaign 1 is SPRING, with
100 units; the waiting room "default" lets 2 in at a time. In a browser:

	http://$COUPON_HTTP/board            the live board
	http://$COUPON_HTTP/rooms/default    a waiting room; a private window is one more visitor

To try:

	curl -i http://$COUPON_HTTP/campaigns/1/issues -d '{"user_id": "alice"}'
	curl http://$COUPON_HTTP/campaigns/1
	curl -i http://$COUPON_HTTP/rooms/default/tickets -d '{"user_id": "alice"}'
	curl -N -H 'Accept: text/event-stream' http://$COUPON_HTTP/rooms/default/tickets/TOKEN
	curl -i -X POST 'http://$COUPON_HTTP/coupons/issue-sync/7?code=SPRING'
	curl http://$COUPON_HTTP/concerts -H 'X-Access-Token: TOKEN'
	curl http://$COUPON_HTTP/openapi.json

	psql -h $PGHOST -p $PGPORT -U postgres
END
trap 'exit 0' INT TERM
while :; do
	sleep 3600 &
	wait $! || true
done

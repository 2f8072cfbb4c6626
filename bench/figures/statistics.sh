#!/usr/bin/env bash
#
# What statistics cost: coupon_issue with and without them, in alternating runs
# of one server, whose library is exchanged (in brackets: CPU time for a call); and a scrape of /metrics with 10,000
# campaigns, all of them in shared memory, and 100 rooms.
#
#	BENCH_CAMPAIGNS, BENCH_ROOMS    how many there are for the scrape
#	BENCH_STATISTICS               which of cost scrape
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

need_server "$@"
failed_figures=0
: "${BENCH_STATISTICS:=cost scrape}"

as_server_user()
{
	if [ "$(id -u)" = 0 ]; then
		setpriv --reuid="$(stat -c %u "$data")" --regid="$(stat -c %g "$data")" --clear-groups "$@"
	else
		"$@"
	fi
}

# build_without: the library without statistics, as $scratch/without.so
build_without()
{
	mkdir "$scratch/build"
	cp -r "$top"/{Makefile,coupon.control,coupon--1.0.sql,sql,src} "$scratch/build/"
	find "$scratch/build/src" -name '*.o' -delete
	make -s -C "$scratch/build" with_llvm=no COPT=-DCOUPON_NO_STATISTICS coupon.so >"$scratch/log" 2>&1 ||
		die "no library without statistics: $(tail -n 3 "$scratch/log")"
	mv "$scratch/build/coupon.so" "$scratch/without.so"
	rm -r "$scratch/build"
}

# use with|without: the server's library
use()
{
	cp "$scratch/$1.so" "$library.new"
	chmod 755 "$library.new"
	mv "$library.new" "$library"
	as_server_user pg_ctl -s -w -m fast -D "$data" -l "$COUPON_SERVER_LOG" -o "-p $PGPORT" restart </dev/null >"$scratch/log" 2>&1 ||
		die "the server does not start: $(tail -n 3 "$scratch/log")"
	postmaster=$(head -n 1 "$data/postmaster.pid")
}

cost()
{
	local pair what detail=''
	declare -A sum

	library=$(find "$COUPON_WORK_DIR/pg" -name coupon.so | head -n 1)
	cp "$library" "$scratch/with.so"
	build_without
	: >"$scratch/ratios"
	for ((pair = 1; pair <= BENCH_PAIRS; pair++)); do
		sum=([with]=0 [without]=0)
		for what in with without without with; do
			use "$what"
			cell checked_run coupon 64 "$BENCH_SECONDS"
			[ -z "$violations" ] || die "void, $what statistics: $violations"
			sum[$what]=$((${sum[$what]} + rate))
			detail+="${detail:+, }$what $rate ($cost us)"
		done
		echo "${sum[with]} ${sum[without]}" | awk '{ print $1 / $2 }' >>"$scratch/ratios"
	done
	use with
	figure "coupon_issue with statistics / without, at 64" "$(printf %.3f "$(median <"$scratch/ratios")")" at_least 0.99 "$detail"
}

scrape()
{
	local campaigns=${BENCH_CAMPAIGNS:-10000} rooms=${BENCH_ROOMS:-100} try

	command -v curl >/dev/null || die "needs curl"
	prepare_variant coupon
	sql "SELECT count(coupon_campaign_create('campaign ' || i, 1000, policy => '$policy')) FROM generate_series(2, $campaigns) i" >/dev/null
	sql "SELECT count(coupon_room_create('room ' || i, 100)) FROM generate_series(1, $rooms) i" >/dev/null
	sql "SELECT count(coupon_issue(campaign_id, 'user ' || n)) FROM coupon.campaign, generate_series(1, 3) n" >/dev/null
	sql "SELECT count(coupon_queue_join(name, 'user ' || n)) FROM coupon.room, generate_series(1, 3) n" >/dev/null
	wait_until 30 'the front' curl -sf -o /dev/null "http://$BENCH_HTTP/metrics"
	for ((try = 0; try < 21; try++)); do
		curl -sf -o "$scratch/metrics" -w '%{time_total} %{size_download}\n' "http://$BENCH_HTTP/metrics"
	done >"$scratch/scrapes"
	figure "scrape of /metrics with $campaigns campaigns and $rooms rooms, ms" \
		"$(awk '{ print $1 * 1000 }' "$scratch/scrapes" | median)" at_most 50 "$(wc -l <"$scratch/metrics") lines, median of 21"
	figure "the same, bytes" "$(awk '{ print $2 }' "$scratch/scrapes" | median)" at_most 1000000
}

for what in $BENCH_STATISTICS; do
	$what
done
exit "$failed_figures"

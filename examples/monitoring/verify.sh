#!/bin/sh
#
# verify.sh FILE [PSQL OPTION]...
#
# Runs coupon_verify() and writes what it found for the textfile collector of
# node_exporter.  From a timer, once a day, and by a role that is a member of
# coupon_admin or coupon_reader:
#
#	verify.sh /var/lib/prometheus/node-exporter/coupon_shop.prom -d shop
#
# Where it cannot be run the file stays as it is, and CouponVerifyOld says so.
set -eu

file=$1
shift
found=$(psql -XAtq -v ON_ERROR_STOP=1 "$@" -c "SELECT format(E'coupon_verify_violations{database=\"%s\"} %s\ncoupon_verify_timestamp_seconds{database=\"%s\"} %s',
	current_database(), (SELECT count(*) FROM coupon_verify()), current_database(), floor(extract(epoch FROM now())))")
# at once, or half a file might be read
printf '%s\n' "$found" >"$file.$$"
mv "$file.$$" "$file"

#!/usr/bin/env bash
#
# cluster.sh: a sale on several nodes, on this machine: three nodes and a proxy.
# It opens a sale, loses a node, gets it back, and adds a fourth one, while users buy by
# way of the proxy; at the end every unit is sold once, and all of it goes back to
# one server. Run by "make cluster";
# doc/cluster.md tells how the same is done on real machines.
set -euo pipefail

# shellcheck source=bench/lib/nodes.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/nodes.sh"

units=${CLUSTER_UNITS:-60000} clients=${CLUSTER_CLIENTS:-8}
nodes=()

nodes_begin
[ -r "$("$PG_CONFIG" --sharedir)/extension/plproxy.control" ] || {
	echo "skipped: plproxy is not installed for this PostgreSQL (Debian: postgresql-15-plproxy)"
	exit 0
}

say()
{
	printf '\n%s\n' "$*"
}

# moment FORMAT...: a line with the time since the opening
moment()
{
	local now

	now=$(date +%s%N)
	# shellcheck disable=SC2059
	printf "%6.1f s  $1\n" "$(((now - opened) / 100000000))e-1" "${@:2}"
}

# issued NODE: how many units it has issued so far; "down"
issued()
{
	on "$1" "SELECT count(*) FROM coupon.issuance" 2>/dev/null || echo down
}

# watch SECONDS: a line each half a second: what each node has issued
watch()
{
	local name line value end=$((SECONDS + $1))

	while [ "$SECONDS" -lt "$end" ]; do
		line=''
		for name in "${nodes[@]}"; do
			value=$(issued "$name")
			line+=$(printf '%s %s   ' "$name" "$value")
		done
		moment '%s' "$line"
		sleep 0.5
	done
}

# known COUNT: waits until all nodes know each other, and are confirmed
known()
{
	local name

	for name in "${nodes[@]}"; do
		until [ "$(on "$name" "SELECT coupon.node_confirmed() AND count(*) = $1 FROM coupon.node")" = t ]; do
			sleep 0.1
		done
	done
}

# settled PLANNED NODE: waits until the slots that it planned to move have moved
settled()
{
	local deadline=$((SECONDS + 120))

	[ "$1" -gt 0 ] || die "node $2 does not give any slots away"
	until [ "$(on "$2" 'SELECT count(*) FROM coupon.slot_plan')" = 0 ]; do
		[ "$SECONDS" -lt "$deadline" ] || die "the slots of node $2 do not move: $(on "$2" 'SELECT to_jsonb(p) FROM coupon.slot_plan p LIMIT 1')"
		sleep 0.1
	done
}

say 'Three nodes, each an ordinary server with coupon, and a proxy with PL/Proxy'
new_node one 1 'coupon.cluster = on'
new_node two 2 'coupon.cluster = on'
new_node three 3 'coupon.cluster = on'
new_proxy proxy
known 3
settled "$(on one 'SELECT coupon_slots_balance()')" one
on proxy 'SELECT coupon_cluster_refresh()' >/dev/null
on proxy "SELECT format('  node %s has %s of the 1,024 slots', name, count(*)) FROM coupon_cluster.slot JOIN coupon_cluster.node USING (node_id) GROUP BY name ORDER BY min(node_id)"

campaign=$(on one "SELECT coupon_cluster_create('flash', $units)")
# a node that has yet to hear of it would say that there is none
for name in "${nodes[@]}"; do
	until [ "$(on "$name" "SELECT count(*) FROM coupon.campaign WHERE campaign_id = $campaign")" = 1 ]; do
		sleep 0.1
	done
done
say "Campaign $campaign: $units units, an equal part for each node"

# who gets an error, or is told to, tries again later, as an application would
on proxy "
	CREATE TABLE refused (at timestamptz DEFAULT clock_timestamp(), message text);
	CREATE TABLE again (user_id text);
	CREATE TABLE answer (user_id text, status text, serial bigint);
	CREATE FUNCTION click(campaign_id bigint, name text) RETURNS void LANGUAGE plpgsql AS \$\$
	DECLARE
		who text;
		told record;
	BEGIN
		IF random() < 0.2 THEN
			DELETE FROM again WHERE ctid = (SELECT a.ctid FROM again a LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING user_id INTO who;
		END IF;
		who := coalesce(who, name);
		BEGIN
			SELECT * INTO told FROM coupon_issue(campaign_id, who);
			IF told.status NOT IN ('busy', 'moved') THEN
				INSERT INTO answer VALUES (told.user_id, told.status, told.serial);
				RETURN;
			END IF;
		EXCEPTION WHEN OTHERS THEN
			INSERT INTO refused (message) VALUES (sqlerrm);
		END;
		INSERT INTO again VALUES (who);
	END \$\$"
# each client has users of its own, more of them than there are units
cat >"$work/click.sql" <<'END'
SELECT click(:campaign, 'user-' || :client_id || '-' || nextval('place'));
END
on proxy 'CREATE SEQUENCE place CACHE 50'
opened=$(date +%s%N)
say "$clients connections to the proxy, a user each time; what each node has issued:"
pgbench -n -M prepared -R 3000 -c "$clients" -j 1 -T 600 -p "${port[proxy]}" -D "campaign=$campaign" -f "$work/click.sql" >"$work/pgbench.log" 2>&1 9>&- &
load=$!
watch 4
[ "$(on proxy 'SELECT count(*) FROM answer')" -gt 0 ] || die "nothing is sold: $(on proxy 'SELECT message FROM refused LIMIT 1')"

moment 'kill -9 of node two, as if its machine had failed'
kill_server two
watch 4
on proxy "SELECT format('          its users were refused %s times: %s', count(*), split_part(min(message), E'\n', 1)) FROM refused"

moment 'node two is started again'
start_server two
watch 4

moment 'a fourth node comes, and the others give it slots, with their users'
new_node four 4 'coupon.cluster = on'
known 4
for name in one two three; do
	planned=$(on "$name" 'SELECT coupon_slots_balance()')
	settled "$planned" "$name"
done
moment 'it has %s slots, and %s units that were issued before' "$(on four 'SELECT count(*) FROM coupon.slot WHERE node_id = 4')" "$(issued four)"
watch 3

moment 'until everything is sold'
deadline=$((SECONDS + 300))
while [ "$(on proxy "SELECT count(*) FROM answer WHERE status = 'sold_out'")" = 0 ]; do
	watch 1
	[ "$SECONDS" -lt "$deadline" ] || die 'it never is'
done
kill "$load"
wait "$load" 2>/dev/null || true

say 'The books'
sold=0
for name in "${nodes[@]}"; do
	n=$(issued "$name")
	sold=$((sold + n))
	printf '  node %-6s %6d units issued\n' "$name" "$n"
	on "$name" "SELECT user_id FROM coupon.issuance" >>"$work/users"
	on "$name" "SELECT serial FROM coupon.issuance" >>"$work/serials"
done
doubled_users=$(sort "$work/users" | uniq -d | wc -l)
doubled_serials=$(sort "$work/serials" | uniq -d | wc -l)
on proxy "SELECT user_id FROM answer WHERE status IN ('issued', 'already_issued')" | sort -u >"$work/told"
acknowledged=$(wc -l <"$work/told")
forgotten=$(sort "$work/users" | comm -13 - "$work/told" | wc -l)
verify=$(on one "SELECT * FROM coupon_cluster_verify($campaign)")
cat <<END
  issued        $sold of $units
  told          $acknowledged users have been told that they have one; $forgotten of them have none
  users twice   $doubled_users
  units twice   $doubled_serials
  verify        ${verify:-finds nothing}
END
if [ "$sold" != "$units" ] || [ "$doubled_users$doubled_serials$forgotten" != 000 ] || [ -n "$verify" ]; then
	echo 'cluster: the books are wrong' >&2
	exit 1
fi

say 'Back to one server: the others are drained and removed'
for name in two three four; do
	on "$name" 'SELECT coupon_node_drain()' >/dev/null
done
deadline=$((SECONDS + 300))
for number in 2 3 4; do
	until refused=$(on one "SELECT coupon_node_remove($number)" 2>&1); do
		[ "$SECONDS" -lt "$deadline" ] || die "node $number cannot be removed: $refused"
		sleep 0.5
	done
	moment 'node %s has left' "$number"
done
on proxy 'SELECT coupon_cluster_refresh()' >/dev/null
on one 'SELECT coupon_node_disband()' >/dev/null
for name in two three four; do
	stop_server "$name"
done
n=$(issued one)
verify=$(on one 'SELECT * FROM coupon_verify()')
user=$(head -n 1 "$work/told")
again=$(on proxy "SELECT status FROM coupon_issue($campaign, '$user')")
cat <<END
  issued        $n of $units, all at this server now
  verify        ${verify:-finds nothing}
  $user, who asks again by way of the proxy, is told: $again
END
if [ "$n" != "$units" ] || [ -n "$verify" ] || [ "$again" != already_issued ]; then
	echo 'cluster: the books are wrong on the way back' >&2
	exit 1
fi

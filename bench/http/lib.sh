# shellcheck shell=bash
#
# Read by the scripts that serve HTTP, not run.

# free_port: a port of the loopback address on which nobody listens
free_port()
{
	local port

	for _ in {1..100}; do
		port=$((20000 + RANDOM % 12000))
		if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
			echo "$port"
			return
		fi
	done
	echo "no free port" >&2
	return 1
}

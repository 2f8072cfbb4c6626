#!/usr/bin/env bash
#
# plot.sh DIRECTORY: issue.svg from issue.csv, one group of bars for each
# number of connections.
set -euo pipefail

cd "$1"
table=$(mktemp)
trap 'rm -f "$table"' EXIT
awk -F, '
	NR > 1 {
		if (!($1 in c)) { c[$1] = 1; clients[++n] = $1 }
		if (!($2 in v)) { v[$2] = 1; variants[++m] = $2 }
		cell[$1, $2] = $3 == "void" ? 0 : $3
	}
	END {
		printf "variant"
		for (i = 1; i <= n; i++) printf " \"%s connections\"", clients[i]
		print ""
		for (j = 1; j <= m; j++) {
			if (variants[j] == "select1") continue	# would dwarf the others
			printf "\"%s\"", variants[j]
			for (i = 1; i <= n; i++) printf " %s", cell[clients[i], variants[j]] + 0
			print ""
		}
	}' issue.csv >"$table"
columns=$(awk 'NR == 2 { print NF }' "$table")
gnuplot <<END
set terminal svg size 960,480 background rgb 'white' font 'sans,12'
set output 'issue.svg'
set title 'Units issued a second, one durable commit each (equal work; insert = bare INSERT)' noenhanced
set style data histograms
set style histogram clustered gap 1
set style fill solid 0.9 noborder
set linetype 1 lc rgb '#9ecae1'
set linetype 2 lc rgb '#4292c6'
set linetype 3 lc rgb '#08519c'
set yrange [0:*]
set format y "%'.0f"
set grid ytics lc rgb '#dddddd'
set key top right
set xtics noenhanced
set offset 0, 0, graph 0.05, 0
plot for [i=2:$columns] '$table' using i:xtic(1) title columnheader(i)
END

#!/usr/bin/env bash
#
# plot.sh DIRECTORY: issue.svg, to_row.svg, latency.svg, snapshot.svg and
# growth.svg of what report.pl has written there.
set -euo pipefail

cd "$1"
table=$(mktemp)
trap 'rm -f "$table"' EXIT

style="set terminal svg size 960,480 background rgb 'white' font 'sans,12'
	set grid ytics lc rgb '#dddddd'
	set key top right noenhanced
	set xtics noenhanced
	set title noenhanced
	set linetype 1 lc rgb '#9ecae1'
	set linetype 2 lc rgb '#4292c6'
	set linetype 3 lc rgb '#08519c'
	set linetype 4 lc rgb '#fd8d3c'"

# matrix FILE COLUMN CONDITIONS: variants down, conditions across, for gnuplot
matrix()
{
	awk -F, -v column="$2" -v wanted="$3" '
		NR > 1 && $1 ~ wanted && $2 != "select1" {	# which would dwarf the others
			if (!($1 in c)) { c[$1] = 1; conditions[++n] = $1 }
			if (!($2 in v)) { v[$2] = 1; variants[++m] = $2 }
			cell[$1, $2] = $3 == "void" ? 0 : $column
		}
		END {
			printf "variant"
			for (i = 1; i <= n; i++) printf " \"%s\"", conditions[i]
			print ""
			for (j = 1; j <= m; j++) {
				printf "\"%s\"", variants[j]
				for (i = 1; i <= n; i++) printf " %s", cell[conditions[i], variants[j]] + 0
				print ""
			}
		}' "$1.csv" >"$table"
}

# bars NAME TITLE: of the matrix
bars()
{
	gnuplot <<-END
		$style
		set output '$1.svg'
		set title "$2"
		set style data histograms
		set style histogram clustered gap 1
		set style fill solid 0.9 noborder
		set xtics rotate by -25
		set format y "%'.0f"
		${3:-set yrange [0:*]}
		plot for [i=2:$(awk 'NR == 2 { print NF }' "$table")] '$table' using i:xtic(1) title columnheader(i)
	END
}

if [ -e issue.csv ]; then
	matrix issue 3 .
	bars issue 'Units issued a second, by connections (equal work; insert: bare INSERT; redis: no row, not in the database)'
fi
if [ -e to_row.csv ]; then
	matrix to_row 3 .
	bars to_row 'Units a second until the last row and event, by connections'
fi
if [ -e latency.csv ]; then
	matrix latency 12 .
	bars latency 'p99 in ms, open loop, by load in percent of the most' 'set logscale y; set format y "%g"'
fi
if [ -e snapshot.seconds.csv ]; then
	mapfile -t variants < <(awk -F, 'NR > 1 && !seen[$1]++ { print $1 }' snapshot.seconds.csv)
	gnuplot <<-END
		$style
		set linetype 4 lc rgb '#fd8d3c'
		set datafile separator ','
		set output 'snapshot.svg'
		set title 'Units issued each second; a snapshot is held after the first seconds'
		set yrange [0:*]
		set format y "%'.0f"
		plot $(for variant in "${variants[@]}"; do
			printf "'< grep ^%s, snapshot.seconds.csv' using 2:3 with lines lw 2 title '%s', " "$variant" "$variant"
		done | sed 's/, $//')
	END
fi
if [ -e growth.csv ] && grep -q ' rows,' growth.csv; then
	mapfile -t variants < <(awk -F, '/ rows,/ && !seen[$2]++ { print $2 }' growth.csv)
	gnuplot <<-END
		$style
		set datafile separator ','
		set output 'growth.svg'
		set title 'Units issued a second at 64 connections, by the issuances that were there before'
		set yrange [0:*]
		set logscale x
		set format y "%'.0f"
		plot $(for variant in "${variants[@]}"; do
			printf "\"< grep ' rows,%s,' growth.csv | sed -E 's/^0 /1 /'\" using (\$1):3 with linespoints lw 2 title '%s', " "$variant" "$variant"
		done | sed 's/, $//')
	END
fi

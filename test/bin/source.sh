# shellcheck shell=bash
#
# Read by the scripts here, not run: what is in the project, and its version.

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

# version_of_meta: of the distribution, as in 1.0.0
version_of_meta()
{
	sed -nE 's/^\t"version": "([^"]*)",$/\1/p' "$top/META.json"
}

# source_files: the files that git knows, as they are, committed or not; where
# there is no git, as in a distribution, all but what a build makes
source_files()
{
	if git -C "$top" rev-parse --is-inside-work-tree >/dev/null 2>&1; then
		git -C "$top" ls-files --cached --others --exclude-standard
	else
		(cd "$top" && find . -path './tmp_*' -prune -o -path ./.git -prune -o \
			-type f ! -name '*.o' ! -name '*.bc' ! -name '*.so' ! -name .built_for -printf '%P\n')
	fi | (cd "$top" && while IFS= read -r name; do [ ! -e "$name" ] || printf '%s\n' "$name"; done)
}

# source_tar PREFIX: a tar of them on standard output, below that directory
source_tar()
{
	source_files | sort | tar -C "$top" --owner=root:0 --group=root:0 --transform "s,^,$1/," -cf - -T -
}

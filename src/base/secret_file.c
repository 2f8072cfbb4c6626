/*
 * secret_file.c
 *	  Files that hold secrets: passwords of brokers, keys of tokens.
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "storage/fd.h"

#include "base/secret_file.h"

/* NULL, or why the file must not be used. */
static const char *
judge(const struct stat *st, int max_size)
{
	if (!S_ISREG(st->st_mode))
		return "it is not a regular file";
	if (st->st_uid != geteuid() && st->st_uid != 0)
		return "it must belong to the server's user or to root";
	if ((st->st_uid == geteuid() && (st->st_mode & (S_IRWXG | S_IRWXO)) != 0) ||
		(st->st_uid == 0 && (st->st_mode & (S_IWGRP | S_IXGRP | S_IRWXO)) != 0))
		return "others can read it: its mode must be 0600 (or 0640 if root owns it)";
	if (st->st_size > max_size)
		return psprintf("it is larger than %d bytes", max_size);
	return NULL;
}

char *
coupon_secret_file_read(const char *path, int max_size, int *size, const char **problem)
{
	/* to open a pipe would otherwise wait for who writes into it */
	int			fd = OpenTransientFile(path, O_RDONLY | O_NONBLOCK | PG_BINARY);
	struct stat st;
	char	   *contents = NULL;

	if (fd < 0)
	{
		*problem = psprintf("it cannot be opened: %s", strerror(errno));
		return NULL;
	}
	*problem = fstat(fd, &st) != 0 ? psprintf("it cannot be examined: %s", strerror(errno)) :
		judge(&st, max_size);
	if (*problem == NULL)
	{
		*size = st.st_size;
		contents = palloc0(*size + 1);
		if (read(fd, contents, *size) != *size)
			*problem = "it cannot be read";
	}
	CloseTransientFile(fd);
	return *problem == NULL ? contents : NULL;
}

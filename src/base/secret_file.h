/*
 * secret_file.h
 *	  Files that hold secrets: passwords of brokers, keys of tokens.
 */
#ifndef COUPON_SECRET_FILE_H
#define COUPON_SECRET_FILE_H

/*
 * What is in a file that nobody else can read: the server's user's, or root's and
 * of its group.  It has a NUL behind it, and is in the current memory context.  NULL
 * if the file must not be used; then *problem says why, and names neither the file
 * nor what is in it.
 */
extern char *coupon_secret_file_read(const char *path, int max_size, int *size, const char **problem);

#endif							/* COUPON_SECRET_FILE_H */

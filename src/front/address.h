/*
 * address.h
 *	  An address to listen on, and how many connections there may be to it.
 */
#ifndef COUPON_ADDRESS_H
#define COUPON_ADDRESS_H

/* Connections beyond the limit, for those who are told to come again. */
#define COUPON_SPARE_CONNECTIONS(connections)	((connections) / 8 + 16)

/* Is it of the form "address:port", with a port from 1 to 65535? */
extern bool coupon_address_is_well_formed(const char *address);

/*
 * A socket that listens on "address:port"; -1, and *error (palloc'd), if it cannot.
 * Shared: others of the same user may, too, and connections are dealt to all.
 */
extern int	coupon_address_listen(const char *address, bool shared, char **error);

/*
 * How many connections there may be of those that are wanted, spare ones
 * apart; says so in the log if there may be fewer.
 */
extern int	coupon_address_connections(const char *address, int wanted);

#endif							/* COUPON_ADDRESS_H */

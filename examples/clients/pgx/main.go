// pgx: every kind of call. The server is that of PGHOST, PGUSER and so on.
//
//	go run . CAMPAIGN
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
)

// The columns that are read, by their names.
type issuance struct {
	Status string
	Serial *int64
}

func must[T any](value T, err error) T {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return value
}

func main() {
	ctx := context.Background()
	campaign := must(strconv.ParseInt(os.Args[1], 10, 64))
	config := must(pgxpool.ParseConfig(""))
	if os.Getenv("POOLER") != "" {
		// pgx prepares every statement and keeps it; behind a pooler that gives
		// away the connection, it must not
		config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
	}
	pool := must(pgxpool.NewWithConfig(ctx, config))
	defer pool.Close()

	issue := func(sql string, arguments ...any) issuance {
		rows := must(pool.Query(ctx, sql, arguments...))
		return must(pgx.CollectExactlyOneRow(rows, pgx.RowToStructByNameLax[issuance]))
	}
	all := func(sql string, arguments ...any) []string {
		return must(pgx.CollectRows(must(pool.Query(ctx, sql, arguments...)), pgx.RowTo[string]))
	}
	same := func(a, b issuance) string {
		if *a.Serial == *b.Serial {
			return "same"
		}
		return "other"
	}

	first := issue("SELECT status, serial FROM coupon_issue($1, $2, $3)", campaign, "pgx", "click 1")
	fmt.Println("issue", first.Status)
	retry := issue("SELECT status, serial FROM coupon_issue($1, $2, $3)", campaign, "pgx", "click 1")
	fmt.Println("the same key", retry.Status, same(retry, first))
	// a user is a text, as the server says, unless a cast says otherwise
	fmt.Println("bigint", all("SELECT status FROM coupon_issue($1, $2::bigint)", campaign, int64(5001))[0])
	user := pgtype.UUID{Valid: true}
	must(rand.Read(user.Bytes[:]))
	fmt.Println("uuid", all("SELECT status FROM coupon_issue($1, $2::uuid)", campaign, user)[0])
	statuses := all("SELECT status FROM coupon_issue_many($1, $2)", campaign, []string{"pgx a", "pgx b"})
	fmt.Println("many", statuses[0], statuses[1])
	statuses = all("SELECT status FROM coupon_issue_many($1, $2::bigint[]::text[])", campaign, []int64{5002, 5003})
	fmt.Println("many numbers", statuses[0], statuses[1])
	seen := map[string]bool{}
	for n := 0; n < 10; n++ {
		seen[issue("SELECT status, serial FROM coupon_issue($1, $2)", campaign, fmt.Sprint("pgx ", n)).Status] = true
	}
	for status := range seen {
		fmt.Println("prepared", status)
	}

	// payment, confirmation and one's own rows are one transaction
	var held, paid string
	must(0, pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		var serial int64
		err := tx.QueryRow(ctx, "SELECT status, serial FROM coupon_hold_any($1, $2)", campaign, "pgx holds").Scan(&held, &serial)
		if err != nil {
			return err
		}
		return tx.QueryRow(ctx, "SELECT status FROM coupon_confirm($1, $2, $3, $4)", campaign, serial, "pgx holds", "payment 1").Scan(&paid)
	}))
	fmt.Println("hold", held, paid)

	var wish pgtype.UUID
	must(0, pool.QueryRow(ctx, "SELECT request_id FROM coupon_request($1, $2, $3)", campaign, "pgx asks", "click 1").Scan(&wish))
	fmt.Println("request", all("SELECT outcome FROM coupon_request_wait($1, '30 s')", wish)[0])

	fmt.Println("grouped", all("SELECT status FROM coupon_issue_grouped($1, $2)", campaign, "pgx grouped")[0])
	// a batch is one transaction
	batch := &pgx.Batch{}
	batch.Queue("SELECT * FROM coupon_issue_grouped($1, $2)", campaign, "batched")
	batch.Queue("SELECT 1")
	var refused *pgconn.PgError
	if errors.As(pool.SendBatch(ctx, batch).Close(), &refused) {
		fmt.Println("grouped in a batch", refused.Code)
	}
}

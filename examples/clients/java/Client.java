// JDBC with HikariCP, and Spring's JdbcTemplate: every kind of call. The server is
// that of PGHOST, PGPORT, PGDATABASE and PGUSER.
//
//     java -cp 'jars/*' Client.java CAMPAIGN
import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import java.sql.Array;
import java.sql.BatchUpdateException;
import java.sql.Connection;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.UUID;
import org.springframework.jdbc.core.JdbcTemplate;
import org.springframework.jdbc.datasource.DataSourceTransactionManager;
import org.springframework.transaction.support.TransactionTemplate;

public class Client {
	record Issuance(String status, Long serial) {}

	static HikariDataSource pool() {
		HikariConfig config = new HikariConfig();
		String host = System.getenv().getOrDefault("PGHOST", "localhost");
		config.setJdbcUrl("jdbc:postgresql://" + host + ":" + System.getenv().getOrDefault("PGPORT", "5432") + "/"
				+ System.getenv().getOrDefault("PGDATABASE", "postgres"));
		config.setUsername(System.getenv("PGUSER"));
		config.setMaximumPoolSize(2);
		config.setAutoCommit(true);	// the default: grouped calls need it
		if (System.getenv("POOLER") != null) {
			// the driver prepares a statement that comes for the fifth time; behind
			// a pooler that gives away the connection, it must not
			config.addDataSourceProperty("prepareThreshold", "0");
		}
		return new HikariDataSource(config);
	}

	// The columns of a composite result are read by their names.
	static Issuance issue(HikariDataSource pool, long campaign, Object user, String key) throws SQLException {
		try (Connection connection = pool.getConnection();
				PreparedStatement statement = connection.prepareStatement("SELECT * FROM coupon_issue(?, ?, ?)")) {
			statement.setLong(1, campaign);
			statement.setObject(2, user);	// String, Long or UUID
			statement.setString(3, key);
			try (ResultSet rows = statement.executeQuery()) {
				rows.next();
				return new Issuance(rows.getString("status"), rows.getObject("serial", Long.class));
			}
		}
	}

	static List<String> many(HikariDataSource pool, long campaign, String sql, String type, Object[] users) throws SQLException {
		List<String> statuses = new ArrayList<>();
		try (Connection connection = pool.getConnection(); PreparedStatement statement = connection.prepareStatement(sql)) {
			Array array = connection.createArrayOf(type, users);
			statement.setLong(1, campaign);
			statement.setArray(2, array);
			try (ResultSet rows = statement.executeQuery()) {
				while (rows.next())
					statuses.add(rows.getString("status"));
			}
		}
		return statuses;
	}

	static void grouped(HikariDataSource pool, long campaign) throws SQLException {
		try (Connection connection = pool.getConnection();
				PreparedStatement statement = connection.prepareStatement("SELECT * FROM coupon_issue_grouped(?, ?)")) {
			statement.setLong(1, campaign);
			statement.setString(2, "jdbc grouped");
			try (ResultSet rows = statement.executeQuery()) {
				rows.next();
				System.out.println("grouped " + rows.getString("status"));
			}
			// a batch is one transaction
			for (int n = 0; n < 2; n++) {
				statement.setLong(1, campaign);
				statement.setString(2, "batched");
				statement.addBatch();
			}
			statement.executeBatch();
		} catch (BatchUpdateException e) {
			System.out.println("grouped in a batch " + e.getSQLState());
		}
	}

	static void spring(HikariDataSource pool, long campaign) {
		JdbcTemplate jdbc = new JdbcTemplate(pool);
		TransactionTemplate transaction = new TransactionTemplate(new DataSourceTransactionManager(pool));

		// payment, confirmation and one's own rows are one transaction
		String[] statuses = transaction.execute(status -> {
			Issuance hold = jdbc.queryForObject("SELECT * FROM coupon_hold_any(?, ?)",
					(row, n) -> new Issuance(row.getString("status"), row.getLong("serial")), campaign, "jdbc holds");
			return new String[] {hold.status(), jdbc.queryForObject("SELECT status FROM coupon_confirm(?, ?, ?, ?)",
					String.class, campaign, hold.serial(), "jdbc holds", "payment 1")};
		});
		System.out.println("hold " + statuses[0] + " " + statuses[1]);

		UUID wish = jdbc.queryForObject("SELECT request_id FROM coupon_request(?, ?, ?)", UUID.class, campaign, "jdbc asks", "click 1");
		System.out.println("request " + jdbc.queryForObject("SELECT outcome FROM coupon_request_wait(?, '30 s')", String.class, wish));
	}

	public static void main(String[] arguments) throws SQLException {
		long campaign = Long.parseLong(arguments[0]);
		try (HikariDataSource pool = pool()) {
			Issuance first = issue(pool, campaign, "jdbc", "click 1");
			System.out.println("issue " + first.status());
			Issuance retry = issue(pool, campaign, "jdbc", "click 1");
			System.out.println("the same key " + retry.status() + (retry.serial().equals(first.serial()) ? " same" : " other"));
			System.out.println("bigint " + issue(pool, campaign, 6001L, null).status());
			System.out.println("uuid " + issue(pool, campaign, UUID.randomUUID(), null).status());
			System.out.println("many " + String.join(" ", many(pool, campaign,
					"SELECT status FROM coupon_issue_many(?, ?)", "text", new Object[] {"jdbc a", "jdbc b"})));
			System.out.println("many numbers " + String.join(" ", many(pool, campaign,
					"SELECT status FROM coupon_issue_many(?, ?::bigint[]::text[])", "bigint", new Object[] {6002L, 6003L})));
			Set<String> statuses = new TreeSet<>();
			for (int n = 0; n < 10; n++)
				statuses.add(issue(pool, campaign, "jdbc " + n, null).status());
			System.out.println("prepared " + String.join(" ", statuses));
			spring(pool, campaign);
			grouped(pool, campaign);
		}
	}
}

\set shards 32
\ir shards.sql

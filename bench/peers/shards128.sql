\set shards 128
\ir shards.sql

-- Grants the service's role what it needs, and no more: docs/reference/database.md, "PostgreSQL".
-- The owner runs this file after each `hotwallet db upgrade`.
\set ON_ERROR_STOP on
BEGIN;
-- An earlier release granted more.
REVOKE ALL ON ALL TABLES IN SCHEMA public FROM hotwallet_service;
GRANT SELECT, INSERT ON refunds, transactions, refund_moves, request_signatures, answers, wallets, sightings, spendings, stops, tenant_blocks,
    keys, audit_records, audit_checkpoints, used_tokens, attempts, alerts TO hotwallet_service;
GRANT UPDATE (status, updated_at, version, sender, key_id, nonce, gas_limit, tx_hash, block_number, block_hash,
    failure_code, failure_detail, due_at, attempts, blocked_by) ON refunds TO hotwallet_service;
GRANT UPDATE ON wallets, sightings, spendings, stops, tenant_blocks, keys, used_tokens, attempts, alerts TO hotwallet_service;
GRANT UPDATE (sequence, hash) ON audit_records TO hotwallet_service;
GRANT DELETE ON used_tokens, attempts TO hotwallet_service;
GRANT SELECT ON alembic_version TO hotwallet_service;
COMMIT;

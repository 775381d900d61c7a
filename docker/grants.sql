-- Grants the service's role what it needs, and no more: docs/reference/database.md, "PostgreSQL".
-- The owner runs this file after each `hotwallet db upgrade`.
\set ON_ERROR_STOP on
GRANT SELECT, INSERT ON refunds, transactions, refund_moves, answers, wallets, sightings, spendings, stops, tenant_blocks,
    keys, audit_records, audit_checkpoints, used_tokens, attempts, alerts TO hotwallet_service;
GRANT UPDATE ON refunds, wallets, sightings, spendings, keys, used_tokens, attempts, alerts TO hotwallet_service;
GRANT UPDATE (sequence, hash) ON audit_records TO hotwallet_service;
GRANT DELETE ON stops, tenant_blocks, used_tokens, attempts TO hotwallet_service;
GRANT SELECT ON alembic_version TO hotwallet_service;

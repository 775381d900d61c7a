-- Generated from backends/sql/tables.py by python -m dev.reference_pages.
-- Grants each role what its process needs, and no more: docs/reference/database.md,
-- "Roles".  The owner runs this file after each `hotwallet db upgrade`.
\set ON_ERROR_STOP on
BEGIN;
-- A restored database has no privileges on itself: no dump has them.
REVOKE ALL ON DATABASE :"DBNAME" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"DBNAME" TO hotwallet_refunds, hotwallet_worker, hotwallet_admin, hotwallet_sign;

-- An earlier release granted more.
REVOKE ALL ON ALL TABLES IN SCHEMA public FROM hotwallet_refunds, hotwallet_worker, hotwallet_admin, hotwallet_sign;
GRANT SELECT ON alembic_version TO hotwallet_refunds, hotwallet_worker, hotwallet_admin, hotwallet_sign;

-- serve --role refunds: accepts refunds, and requests that they are cancelled.
GRANT SELECT, INSERT (id, tenant, idempotency_key, fingerprint, reference,
    payment_session_id, network, chain_id, token, token_address, decimals, recipient,
    amount, reason, created_at, state, updated_at, due_at, mac), UPDATE
    (cancel_requested_at) ON refunds TO hotwallet_refunds;
GRANT SELECT ON transactions TO hotwallet_refunds;
GRANT SELECT ON transaction_payments TO hotwallet_refunds;
GRANT SELECT ON attempts TO hotwallet_refunds;
GRANT SELECT, INSERT (refund_id, status, at) ON refund_moves TO hotwallet_refunds;
GRANT INSERT ON request_signatures TO hotwallet_refunds;
GRANT SELECT ON wallets TO hotwallet_refunds;
GRANT SELECT ON unrecorded_transactions TO hotwallet_refunds;
GRANT SELECT ON spendings TO hotwallet_refunds;
GRANT SELECT ON keys TO hotwallet_refunds;
GRANT SELECT, INSERT (id, body, mac) ON audit_records TO hotwallet_refunds;
GRANT SELECT, INSERT, UPDATE (count), DELETE ON rate_counters TO hotwallet_refunds;
GRANT SELECT, INSERT, UPDATE (count, last_at) ON alerts TO hotwallet_refunds;
GRANT SELECT, INSERT (digest, proposal, requested_by, requested_at, expires_at,
    refund_id, mac) ON approvals TO hotwallet_refunds;
GRANT SELECT ON accepted_limits TO hotwallet_refunds;
GRANT SELECT ON holds TO hotwallet_refunds;
GRANT SELECT, INSERT (id, tenant, refund_id, status, at, mac) ON events TO
    hotwallet_refunds;
GRANT SELECT ON workers TO hotwallet_refunds;

-- worker: moves refunds, follows and ends their approvals, reconciles wallets, enrols
-- and retires keys, stops, accepts limits, seals, delivers events, and deletes old
-- ones.
GRANT SELECT, UPDATE (state, updated_at, version, due_at, attempts, blocked_by, sender,
    nonce, position, failure_code, failure_detail) ON refunds TO hotwallet_worker;
GRANT SELECT, INSERT, UPDATE (status, updated_at, version, due_at, attempts, blocked_by,
    tx_hash, block_number, block_hash) ON transactions TO hotwallet_worker;
GRANT SELECT, INSERT ON transaction_payments TO hotwallet_worker;
GRANT SELECT, INSERT ON attempts TO hotwallet_worker;
GRANT INSERT ON refund_moves TO hotwallet_worker;
GRANT SELECT ON request_signatures TO hotwallet_worker;
GRANT SELECT, INSERT, UPDATE (paused_by, paused_at, version, high_water, mac) ON wallets
    TO hotwallet_worker;
GRANT SELECT, INSERT, UPDATE (accepted_at, mac) ON unrecorded_transactions TO
    hotwallet_worker;
GRANT SELECT, INSERT, UPDATE (amount) ON spendings TO hotwallet_worker;
GRANT SELECT, INSERT, UPDATE (state, updated_at, epoch, requested_by, blocked_by,
    version, mac, proved_at) ON keys TO hotwallet_worker;
GRANT SELECT, INSERT (id, body, mac), UPDATE (sequence, hash) ON audit_records TO
    hotwallet_worker;
GRANT SELECT, INSERT ON audit_checkpoints TO hotwallet_worker;
GRANT SELECT, INSERT, UPDATE (place, sequence, hash, complete_at, version, mac) ON
    audit_shipping TO hotwallet_worker;
GRANT SELECT, INSERT, UPDATE (count, last_at) ON alerts TO hotwallet_worker;
GRANT SELECT, INSERT, UPDATE (reason, state, decided_by, decided_at, expires_at,
    signatures, version, mac) ON approvals TO hotwallet_worker;
GRANT SELECT, INSERT, UPDATE (document, accepted_at, version, mac) ON accepted_limits TO
    hotwallet_worker;
GRANT SELECT, INSERT, UPDATE (at, reason, requested_by, alert, evidence, ended_at,
    version, mac) ON holds TO hotwallet_worker;
GRANT SELECT, INSERT (id, tenant, refund_id, version, status, at, sender, nonce,
    tx_hash, block_number, failure_code, failure_detail, mac), UPDATE (sequence), DELETE
    ON events TO hotwallet_worker;
GRANT SELECT, INSERT, UPDATE (state, attempts, due_at, problem, updated_at, version),
    DELETE ON webhook_deliveries TO hotwallet_worker;
GRANT SELECT, INSERT, UPDATE (passed_at, metrics), DELETE ON workers TO
    hotwallet_worker;

-- serve --role admin, and the commands of operators.
GRANT SELECT, INSERT (id, tenant, idempotency_key, fingerprint, reference,
    payment_session_id, network, chain_id, token, token_address, decimals, recipient,
    amount, reason, created_at, state, updated_at, due_at, mac, purpose, calldata,
    bound_sender), UPDATE (cancel_requested_at, state, updated_at, version, due_at,
    attempts, blocked_by, sender, nonce, position) ON refunds TO hotwallet_admin;
GRANT SELECT, INSERT (chain_id, sender, nonce, network, kind, composition, key_id,
    gas_limit, created_at, vault, mac, status, updated_at, version, due_at, attempts,
    blocked_by), UPDATE (updated_at), DELETE ON transactions TO hotwallet_admin;
GRANT SELECT, INSERT, DELETE ON transaction_payments TO hotwallet_admin;
GRANT SELECT ON attempts TO hotwallet_admin;
GRANT SELECT, INSERT ON refund_moves TO hotwallet_admin;
GRANT INSERT ON request_signatures TO hotwallet_admin;
GRANT SELECT, INSERT, UPDATE (paused_by, paused_at, version, high_water, mac) ON wallets
    TO hotwallet_admin;
GRANT SELECT, INSERT, UPDATE (accepted_at, mac) ON unrecorded_transactions TO
    hotwallet_admin;
GRANT SELECT ON spendings TO hotwallet_admin;
GRANT SELECT, INSERT, UPDATE (state, updated_at, epoch, requested_by, blocked_by,
    version, mac, key_id, held_until) ON keys TO hotwallet_admin;
GRANT SELECT, INSERT (id, body, mac), UPDATE (sequence, hash) ON audit_records TO
    hotwallet_admin;
GRANT SELECT, INSERT ON audit_checkpoints TO hotwallet_admin;
GRANT SELECT ON audit_shipping TO hotwallet_admin;
GRANT SELECT, INSERT, UPDATE (expires_at), DELETE ON used_tokens TO hotwallet_admin;
GRANT SELECT, INSERT, UPDATE (count), DELETE ON rate_counters TO hotwallet_admin;
GRANT SELECT, INSERT, UPDATE (count, last_at) ON alerts TO hotwallet_admin;
GRANT SELECT, INSERT, UPDATE (reason, state, decided_by, decided_at, expires_at,
    signatures, version, mac, action, proposal, requested_by, requested_at, refund_id)
    ON approvals TO hotwallet_admin;
GRANT SELECT ON accepted_limits TO hotwallet_admin;
GRANT SELECT, INSERT, UPDATE (at, reason, requested_by, alert, evidence, ended_at,
    version, mac) ON holds TO hotwallet_admin;
GRANT SELECT, INSERT (id, tenant, refund_id, status, at, mac) ON events TO
    hotwallet_admin;
GRANT SELECT, INSERT, UPDATE (state, attempts, due_at, problem, updated_at, version) ON
    webhook_deliveries TO hotwallet_admin;
GRANT SELECT ON workers TO hotwallet_admin;

-- serve --role sign: signs with the active key, and accepts what clients of JSON-RPC
-- send.
GRANT SELECT, INSERT (id, tenant, idempotency_key, fingerprint, reference,
    payment_session_id, network, chain_id, token, token_address, decimals, recipient,
    amount, reason, created_at, state, updated_at, due_at, mac, purpose, calldata) ON
    refunds TO hotwallet_sign;
GRANT SELECT ON transactions TO hotwallet_sign;
GRANT SELECT ON transaction_payments TO hotwallet_sign;
GRANT INSERT (refund_id, status, at) ON refund_moves TO hotwallet_sign;
GRANT INSERT ON request_signatures TO hotwallet_sign;
GRANT SELECT ON wallets TO hotwallet_sign;
GRANT SELECT ON unrecorded_transactions TO hotwallet_sign;
GRANT SELECT, INSERT, UPDATE (amount) ON spendings TO hotwallet_sign;
GRANT SELECT ON keys TO hotwallet_sign;
GRANT SELECT, INSERT (id, body, mac) ON audit_records TO hotwallet_sign;
GRANT SELECT ON audit_shipping TO hotwallet_sign;
GRANT SELECT, INSERT, UPDATE (count), DELETE ON rate_counters TO hotwallet_sign;
GRANT SELECT, INSERT, UPDATE (count, last_at) ON alerts TO hotwallet_sign;
GRANT SELECT, INSERT (digest, proposal, requested_by, requested_at, expires_at,
    refund_id, mac) ON approvals TO hotwallet_sign;
GRANT SELECT ON accepted_limits TO hotwallet_sign;
GRANT SELECT ON holds TO hotwallet_sign;
GRANT INSERT (id, tenant, refund_id, status, at, mac) ON events TO hotwallet_sign;
GRANT SELECT ON workers TO hotwallet_sign;

COMMIT;

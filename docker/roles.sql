-- Creates five roles: the owner upgrades the schema; the others read and write rows, each
-- only those that its process needs (grants.sql), and cannot change the audit log.
--
-- The superuser runs this file once, in the new database; the PostgreSQL image does when
-- its volume is new.  So may a role that can create roles and made the database: managed
-- servers give no superuser.  `hotwallet init --for production` puts the passwords into
-- owner.env.
\set ON_ERROR_STOP on
SELECT rolsuper AS superuser FROM pg_roles WHERE rolname = current_user \gset
\if :superuser
SET log_min_error_statement = panic; -- A failed statement would be logged with its password.
\endif
\getenv owner OWNER_PASSWORD
\getenv refunds REFUNDS_PASSWORD
\getenv worker WORKER_PASSWORD
\getenv admin ADMIN_PASSWORD
\getenv sign SIGN_PASSWORD
BEGIN;
CREATE ROLE hotwallet_owner LOGIN;
CREATE ROLE hotwallet_refunds LOGIN;
CREATE ROLE hotwallet_worker LOGIN;
CREATE ROLE hotwallet_admin LOGIN;
CREATE ROLE hotwallet_sign LOGIN;
-- Without passwords until here, because an existing role fails above.
ALTER ROLE hotwallet_owner PASSWORD :'owner';
ALTER ROLE hotwallet_refunds PASSWORD :'refunds';
ALTER ROLE hotwallet_worker PASSWORD :'worker';
ALTER ROLE hotwallet_admin PASSWORD :'admin';
ALTER ROLE hotwallet_sign PASSWORD :'sign';
GRANT hotwallet_owner TO CURRENT_USER; -- Only a member may give the database to it.
ALTER DATABASE :"DBNAME" OWNER TO hotwallet_owner;
REVOKE ALL ON DATABASE :"DBNAME" FROM PUBLIC;
-- Before PostgreSQL 15, any role may create functions that another role then calls.
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT CONNECT ON DATABASE :"DBNAME" TO hotwallet_refunds, hotwallet_worker, hotwallet_admin, hotwallet_sign;
REVOKE hotwallet_owner FROM CURRENT_USER;
COMMIT;

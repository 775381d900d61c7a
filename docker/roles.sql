-- Creates five roles: the owner upgrades the schema; the others read and write rows, each
-- only those that its process needs (grants.sql), and cannot change the audit log.
--
-- The superuser runs this file once, in the new database; the PostgreSQL image does when
-- its volume is new.  `hotwallet init --for production` puts the passwords into owner.env.
\set ON_ERROR_STOP on
SET log_min_error_statement = panic; -- A failed statement would be logged with its password.
\getenv owner OWNER_PASSWORD
\getenv refunds REFUNDS_PASSWORD
\getenv worker WORKER_PASSWORD
\getenv admin ADMIN_PASSWORD
\getenv sign SIGN_PASSWORD
CREATE ROLE hotwallet_owner LOGIN PASSWORD :'owner';
CREATE ROLE hotwallet_refunds LOGIN PASSWORD :'refunds';
CREATE ROLE hotwallet_worker LOGIN PASSWORD :'worker';
CREATE ROLE hotwallet_admin LOGIN PASSWORD :'admin';
CREATE ROLE hotwallet_sign LOGIN PASSWORD :'sign';
ALTER DATABASE :"DBNAME" OWNER TO hotwallet_owner;
REVOKE ALL ON DATABASE :"DBNAME" FROM PUBLIC;
-- Before PostgreSQL 15, any role may create functions that another role then calls.
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT CONNECT ON DATABASE :"DBNAME" TO hotwallet_refunds, hotwallet_worker, hotwallet_admin, hotwallet_sign;

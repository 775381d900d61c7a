-- Creates two roles: the owner upgrades the schema; the service reads and writes rows,
-- and cannot change the audit log.
--
-- The PostgreSQL image runs this file once, as superuser, when its volume is new.  The
-- superuser is not used after that.  The passwords come from owner.env.
\set ON_ERROR_STOP on
SET log_min_error_statement = panic; -- A failed statement would be logged with its password.
\getenv owner PGPASSWORD
\getenv service SERVICE_PASSWORD
CREATE ROLE hotwallet_owner LOGIN PASSWORD :'owner';
CREATE ROLE hotwallet_service LOGIN PASSWORD :'service';
ALTER DATABASE :"DBNAME" OWNER TO hotwallet_owner;
REVOKE ALL ON DATABASE :"DBNAME" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"DBNAME" TO hotwallet_service;

-- Two roles: the owner changes the schema, the service cannot even delete a row.
--
-- The database's image runs this once, when its volume is new, in the new database and
-- as its superuser, whom nobody needs after that.  The passwords are owner.env's.
\set ON_ERROR_STOP on
SET log_min_error_statement = panic; -- What fails would be logged with its password.
\getenv owner PGPASSWORD
\getenv service SERVICE_PASSWORD
CREATE ROLE hotwallet_owner LOGIN PASSWORD :'owner';
CREATE ROLE hotwallet_service LOGIN PASSWORD :'service';
ALTER DATABASE :"DBNAME" OWNER TO hotwallet_owner;
REVOKE ALL ON DATABASE :"DBNAME" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"DBNAME" TO hotwallet_service;

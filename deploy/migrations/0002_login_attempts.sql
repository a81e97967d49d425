-- Attempts to log in, counted in the database because any number of API processes share the count.

create table login_attempt (
    account bytea not null,           -- HMAC-SHA-256 of the name as typed: people type passwords into that field
    address text not null,            -- IPv4 address, or the /64 network of an IPv6 one
    window_started_at timestamptz not null,
    attempts integer not null,
    primary key (account, address)
);
create index login_attempt_by_age on login_attempt (window_started_at);
grant select, insert, update, delete on login_attempt to vigil_api;

-- Refresh tokens that have run out are removed when their owner logs in again.
grant delete on refresh_token to vigil_api;

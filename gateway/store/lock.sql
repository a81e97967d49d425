-- name: wait
-- Waits until no other gateway works on this database; held until the connection ends.
select pg_advisory_lock(7316, 0);

-- name: still_here
-- Answers while the connection, and with it the lock, lives.
select 1;

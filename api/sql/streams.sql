-- name: head
-- The newest entry; whoever sees it can see every older one.
select coalesce(max(id), 0) from outbox

-- name: entries_after
-- What the user may see of the entries after one, oldest first.
select id, alert from outbox where id > %(after)s order by id limit %(limit)s

-- name: schema
-- Makes the tables of version 1 in an empty file.
create table life (
    one integer primary key check (one = 1),
    -- A message's seq is its number and this, so that a numbering can be moved without touching the messages.
    shift integer not null,
    next integer not null,
    freed integer not null,
    sent integer not null
) strict;
insert into life (one, shift, next, freed, sent) values (1, 0, 1, 0, 0);
create table message (
    number integer primary key,
    device text not null,
    topic text not null,
    items blob not null
) strict;
create table stream (
    id integer primary key,
    device text not null,
    name text not null,
    covered integer,
    committed integer,
    unique (device, name)
) strict;
create table record (
    stream integer not null references stream (id) on delete cascade,
    key integer not null,
    number integer not null,
    primary key (stream, key)
) strict, without rowid;
create index record_by_number on record (number);
create table fact (
    device text not null,
    name text not null,
    value text not null,
    primary key (device, name)
) strict, without rowid;
create table roster (
    one integer primary key check (one = 1),
    payload blob not null
) strict;
create table command (
    number integer primary key,
    id text not null unique,
    device text not null,
    type text not null,
    body blob not null,
    expires integer,
    done integer not null default 0
) strict;

-- name: life
-- Where the numbering stands.
select shift, next, freed, sent from life;

-- name: live
-- Writes down where the numbering stands.
update life set shift = ?, next = ?, freed = ?, sent = ?;

-- name: add_message
-- Puts a message behind all others.
insert into message (number, device, topic, items) values (?, ?, ?, ?);

-- name: waiting
-- The messages after a number, in order.
select number, device, topic, items from message where number > ? order by number limit ?;

-- name: free
-- Forgets the messages that a receipt covers.
delete from message where number <= ?;

-- name: stream
-- A stream of a device: its id and how far it is committed.
select id, committed from stream where device = ? and name = ?;

-- name: streams
-- The streams of a device, the latest begun first.
select name from stream where device = ? order by id desc;

-- name: add_stream
-- Begins a stream.
insert into stream (device, name) values (?, ?) returning id;

-- name: forget_streams
-- Forgets all but the latest streams of a device, as far as none of their records waits for its receipt.
delete from stream
where device = :device
    and id not in (select id from stream where device = :device order by id desc limit :most)
    and not exists (select 1 from record where record.stream = stream.id and record.number > :freed);

-- name: known
-- The keys of a stream within limits that are remembered.
select key from record where stream = ? and key between ? and ?;

-- name: add_record
-- Remembers a record and the last message that holds a part of it.
insert into record (stream, key, number) values (?, ?, ?);

-- name: cover
-- Notes that everything of a stream up to a key has been read.
update stream set covered = max(coalesce(covered, -1), :key) where id = :stream;

-- name: streams_of
-- The streams that have records in a range of messages.
select distinct stream from record where number > ? and number <= ?;

-- name: advance
-- Moves the committed mark: as far as all has been read and nothing waits.
update stream
set committed = max(
    coalesce(committed, -1),
    min(
        covered,
        coalesce(
            (select min(key) - 1 from record where record.stream = stream.id and record.number > :freed),
            covered
        )
    )
)
where id = :stream and covered is not null;

-- name: forget_committed
-- Forgets the records up to the committed mark: the mark knows them.
delete from record where stream = :stream and key <= (select committed from stream where id = :stream);

-- name: forget_excess
-- Forgets the lowest of very many records that were receipted and never covered.
delete from record
where stream = :stream
    and number <= :freed
    and key <= (
        select key from record
        where stream = :stream and number <= :freed
        order by key desc
        limit 1 offset :most
    );

-- name: fact
-- What was noted of a device under a name.
select value from fact where device = ? and name = ?;

-- name: set_fact
-- Notes something of a device.
insert into fact (device, name, value) values (?, ?, ?)
on conflict (device, name) do update set value = excluded.value;

-- name: roster
-- The last roster.
select payload from roster;

-- name: set_roster
-- Replaces the roster.
insert into roster (one, payload) values (1, ?) on conflict (one) do update set payload = excluded.payload;

-- name: add_command
-- Keeps a command unless its id is known.
insert into command (id, device, type, body, expires) values (?, ?, ?, ?, ?) on conflict (id) do nothing;

-- name: forget_commands
-- Forgets the commands beyond a number, first those that are done, then the oldest.
delete from command
where number in (select number from command order by done, number desc limit -1 offset ?);

-- name: commands
-- What a device is still to be told, in the order it came.
select id, device, type, body, expires from command
where device = ? and done = 0 and (expires is null or expires > ?)
order by number;

-- name: finish_command
-- A command is done, or never will be; its id stays known.
update command set done = 1, body = x'' where id = ?;

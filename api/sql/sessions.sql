-- name: configure
-- Settings of a connection for its whole life.
select set_config('timezone', 'UTC', false),
       set_config('plan_cache_mode', 'force_custom_plan', false),
       set_config('statement_timeout', %(statement_timeout)s, false),
       set_config('idle_in_transaction_session_timeout', '60000', false)

-- name: become
-- Tells row security who asks, until the end of the transaction.
select set_config('vigil.user_id', %(user_id)s, true)

-- name: current_role
-- The role of the user who asks; null for nobody and for a disabled one.
select current_user_role()

-- name: user_by_email
-- What a log-in is checked against.
select id, role, password_hash, disabled_at is not null as disabled from app_user where email = %(email)s

-- name: user_by_id
-- Who holds a refresh token.
select id, role, password_hash, disabled_at is not null as disabled from app_user where id = %(id)s

-- name: store_password_hash
-- A hash with today's parameters in place of an older one; not if the password changed meanwhile.
update app_user set password_hash = %(new)s where id = %(id)s and password_hash = %(old)s

-- name: count_login_attempt
-- Counts an attempt before it is checked, so that many at once cannot slip past the limit.
insert into login_attempt as a (account, address, window_started_at, attempts)
values (%(account)s, %(address)s, %(now)s, 1)
on conflict (account, address) do update
set attempts = case when a.window_started_at <= %(window_start)s then 1 else least(a.attempts, 1000000) + 1 end,
    window_started_at = case when a.window_started_at <= %(window_start)s then %(now)s else a.window_started_at end
returning attempts, window_started_at

-- name: forget_login_attempts
-- A log-in that succeeded clears the count.
delete from login_attempt where account = %(account)s and address = %(address)s

-- name: remove_old_login_attempts
-- Counts that no longer matter, a few at a time.
delete from login_attempt
where (account, address) in (
    select account, address from login_attempt where window_started_at <= %(window_start)s
    limit 100 for update skip locked)

-- name: add_refresh_token
-- A new refresh token; only its hash is kept.
insert into refresh_token (token_hash, family, user_id, issued_at, expires_at)
values (%(token_hash)s, %(family)s, %(user_id)s, %(now)s, %(expires_at)s)

-- name: remove_old_refresh_tokens
-- Tokens of a user that have run out.
delete from refresh_token where user_id = %(user_id)s and expires_at <= %(now)s

-- name: use_refresh_token
-- Marks a good token as used, once: of two that come at the same moment the second finds it used.
update refresh_token set used_at = %(now)s
where token_hash = %(token_hash)s and used_at is null and revoked_at is null and expires_at > %(now)s
returning family, user_id

-- name: revoke_family_of
-- A used token came back: whoever holds its descendants may be a thief, so all of them end.
update refresh_token set revoked_at = %(now)s
where revoked_at is null
  and family = (select family from refresh_token where token_hash = %(token_hash)s and used_at is not null)

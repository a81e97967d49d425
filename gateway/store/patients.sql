-- name: lock_patient
-- Until the transaction ends only this process settles what concerns the patient; whoever else does so is waited for.
select id from patient where id = %(patient)s for no key update;

-- name: try_lock_patient
-- The same without waiting: nothing comes back while somebody else is at it.
select id from patient where id = %(patient)s for no key update skip locked;

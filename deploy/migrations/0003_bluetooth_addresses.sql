-- Addresses by which edge boxes find devices: in one form, and each once behind one edge box.

-- Until now any text was taken and nothing read it. What cannot be an address would end no search: it goes.
update device set address = upper(address) where address <> upper(address);
update device set address = null
where address !~ '^([0-9A-F]{2}(:[0-9A-F]{2}){5}|[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12})$';
update device d set address = null
where exists (select from device first where first.via = d.via and first.address = d.address and first.key < d.key);

-- AA:BB:CC:DD:EE:FF, or the UUID by which macOS knows a device.
alter table device add constraint device_address_form
    check (address ~ '^([0-9A-F]{2}(:[0-9A-F]{2}){5}|[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12})$');

drop index device_by_via;
create unique index device_by_via on device (via, address) where via is not null;

-- Which samples of a series were refused: one that cannot be costs only itself.

alter table quarantine add column samples smallint[];  -- of the one series; null: all of what `series` says

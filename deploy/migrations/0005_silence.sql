-- Alerts of silence that is over, into which late readings may still come: lately, and one share of all after the other.
create index alert_silence_lately on alert (updated_at)
    where rule = 'data_silence' and not running and state <> 'withdrawn';
create index alert_silence_shares on alert ((id % 720))
    where rule = 'data_silence' and not running and state <> 'withdrawn';

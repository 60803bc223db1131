//! What Redis does in one step each, in Lua. A script's keys are all in one slot, so that it runs in a Cluster.
//!
//! Numbers are compared as decimal text and names byte by byte: Lua's own numbers end at 2^53, and its comparison of
//! strings follows the server's locale, while all nodes must hold the same term for the higher one.

use redis::{Cmd, Script};

const COMMON: &str = r"
local function less(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then return x < y end
  end
  return #a < #b
end
local function below(a, b)
  if #a ~= #b then return #a < #b end
  return less(a, b)
end
local function term_below(e1, n1, e2, n2)
  if e1 ~= e2 then return below(e1, e2) end
  return less(n1, n2)
end
local function lease(key)
  local held = redis.call('HMGET', key, 'epoch', 'node', 'incarnation')
  return held[1] or '', held[2] or '', held[3] or ''
end
";

/// Which memory this is: of this process, since it became what it is, since it was last flushed. All of it is lost
/// together with the keys that a script has just looked at.
const MEMORY: &str = r"
local function memory()
  local server = redis.call('INFO', 'server')
  local replication = redis.call('INFO', 'replication')
  local commands = redis.call('INFO', 'commandstats')
  local id = string.sub(string.match(server, 'run_id:(%x+)'), 1, 16)
    .. '-' .. string.sub(string.match(replication, 'master_replid:(%x+)'), 1, 16)
  for _, name in ipairs({'flushall', 'flushdb', 'swapdb'}) do
    id = id .. '-' .. (string.match(commands, 'cmdstat_' .. name .. ':calls=(%d+)') or '0')
  end
  return id
end
";

/// No keys. Answers: memory.
const WHICH_MEMORY: &str = "return {memory()}";

/// room. Answers: memory, epoch, node, incarnation.
const READ: &str = "return {memory(), lease(KEYS[1])}";

/// room, state; what was seen (3), what shall be (3), type, server, created, channel, message. Answers: `ok`, or
/// `conflict` and what is held (3).
const CLAIM: &str = r"
local e, n, i = lease(KEYS[1])
if e ~= ARGV[1] or n ~= ARGV[2] or i ~= ARGV[3] or (e ~= '' and not term_below(e, n, ARGV[4], ARGV[5])) then
  return {'conflict', e, n, i}
end
redis.call('HSET', KEYS[1], 'epoch', ARGV[4], 'node', ARGV[5], 'incarnation', ARGV[6],
  'type', ARGV[7], 'server', ARGV[8], 'created', ARGV[9])
redis.call('PERSIST', KEYS[1])
redis.call('PERSIST', KEYS[2])
redis.call('PUBLISH', ARGV[10], ARGV[11])
return {'ok'}
";

/// room, state; own lease (3), type, server, created, 1 to look at the memory of a lease that was kept, too. Answers: `kept`
/// or `restored` and memory or nothing, or `conflict` and what is held (3).
const CONFIRM: &str = r"
local e, n, i = lease(KEYS[1])
if e ~= '' and term_below(ARGV[1], ARGV[2], e, n) then return {'conflict', e, n, i} end
local kept = e == ARGV[1] and n == ARGV[2] and i == ARGV[3]
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'node', ARGV[2], 'incarnation', ARGV[3],
  'type', ARGV[4], 'server', ARGV[5], 'created', ARGV[6])
redis.call('PERSIST', KEYS[1])
redis.call('PERSIST', KEYS[2])
if kept and ARGV[7] ~= '1' then return {'kept', ''} end
return {kept and 'kept' or 'restored', memory()}
";

/// room, state; epoch, node, incarnation or nothing for any, how long the state stays, channel, message. Answers: `ok`, or
/// `conflict`.
const RELEASE: &str = r"
local e, n, i = lease(KEYS[1])
if e ~= ARGV[1] or n ~= ARGV[2] or (ARGV[3] ~= '' and i ~= ARGV[3]) then return {'conflict'} end
redis.call('DEL', KEYS[1])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
redis.call('PUBLISH', ARGV[5], ARGV[6])
return {'ok'}
";

/// state, room; version seen, the next, value, how long it stays without an owner. Answers: `ok`, or `conflict` and what
/// is held (2).
const SET_STATE: &str = r"
local held = redis.call('HMGET', KEYS[1], 'version', 'value')
if (held[1] or '0') ~= ARGV[1] then return {'conflict', held[1] or '', held[2] or ''} end
redis.call('HSET', KEYS[1], 'version', ARGV[2], 'value', ARGV[3])
if lease(KEYS[2]) == '' then
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
else
  redis.call('PERSIST', KEYS[1])
end
return {'ok'}
";

/// server; incarnation, node, load, how long a silent node stays, channel, message. Answers: `ok`, or `replaced` and by
/// which incarnation.
const BEAT: &str = r"
local held = redis.call('HMGET', KEYS[1], 'incarnation', 'left')
local newest = held[1] or ''
if newest ~= '' and (below(ARGV[1], newest) or (newest == ARGV[1] and held[2] == '1')) then
  return {'replaced', newest}
end
local time = redis.call('TIME')
redis.call('HSET', KEYS[1], 'incarnation', ARGV[1], 'node', ARGV[2], 'load', ARGV[3], 'left', '0',
  'beat', time[1] .. string.format('%03d', math.floor(time[2] / 1000)))
redis.call('PEXPIRE', KEYS[1], ARGV[4])
if newest ~= ARGV[1] then redis.call('PUBLISH', ARGV[5], ARGV[6]) end
return {'ok'}
";

/// metrics; incarnation, how long they stay, then names and values. An older life's come too late.
const METRICS: &str = r"
local newest = redis.call('HGET', KEYS[1], 'incarnation') or '0'
if below(ARGV[1], newest) then return {'replaced'} end
redis.call('HSET', KEYS[1], 'incarnation', ARGV[1], unpack(ARGV, 3))
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return {'ok'}
";

/// server; incarnation, how long the goodbye is remembered, channel, message. Answers: `ok`, or `replaced`.
const DEREGISTER: &str = r"
local held = redis.call('HMGET', KEYS[1], 'incarnation', 'left')
if not held[1] or held[2] == '1' or below(ARGV[1], held[1]) then return {'replaced'} end
redis.call('HSET', KEYS[1], 'left', '1')
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PUBLISH', ARGV[3], ARGV[4])
return {'ok'}
";

/// server. Answers: the time, incarnation, node, load, left, beat.
const MEMBER: &str = r"
local time = redis.call('TIME')
local held = redis.call('HMGET', KEYS[1], 'incarnation', 'node', 'load', 'left', 'beat')
return {time[1] .. string.format('%03d', math.floor(time[2] / 1000)),
  held[1] or '', held[2] or '', held[3] or '', held[4] or '', held[5] or ''}
";

/// registered; node, incarnation, memories. Answers: `ok`, or `replaced` and by which incarnation.
const REGISTER: &str = r"
local held = redis.call('HGET', KEYS[1], ARGV[1])
local newest = held and string.match(held, '^%d+') or '0'
if below(ARGV[2], newest) then return {'replaced', newest} end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. ARGV[3])
return {'ok'}
";

/// All scripts.
pub(super) struct Scripts {
    pub(super) memory: Compiled,
    pub(super) read: Compiled,
    pub(super) claim: Compiled,
    pub(super) confirm: Compiled,
    pub(super) release: Compiled,
    pub(super) set_state: Compiled,
    pub(super) beat: Compiled,
    pub(super) metrics: Compiled,
    pub(super) deregister: Compiled,
    pub(super) member: Compiled,
    pub(super) register: Compiled,
}

/// A script and its digest, by which a server that has seen it knows it.
pub(super) struct Compiled {
    source: String,
    digest: String,
}

/// A command that asks for a script by digest, and the one that brings it along, for a server that does not know it.
pub(super) struct Question {
    pub(super) command: Cmd,
    pub(super) in_full: Option<Cmd>,
}

impl Compiled {
    fn new(parts: &[&str]) -> Self {
        let source = parts.concat();
        let digest = Script::new(&source).get_hash().to_owned();
        Self { source, digest }
    }

    pub(super) fn ask(&self, keys: &[&str], arguments: &[&str]) -> Question {
        let command = |name: &str, script: &str| {
            let mut command = redis::cmd(name);
            command.arg(script).arg(keys.len()).arg(keys).arg(arguments);
            command
        };
        Question { command: command("EVALSHA", &self.digest), in_full: Some(command("EVAL", &self.source)) }
    }
}

impl From<Cmd> for Question {
    fn from(command: Cmd) -> Self {
        Self { command, in_full: None }
    }
}

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            memory: Compiled::new(&[MEMORY, WHICH_MEMORY]),
            read: Compiled::new(&[COMMON, MEMORY, READ]),
            claim: Compiled::new(&[COMMON, CLAIM]),
            confirm: Compiled::new(&[COMMON, MEMORY, CONFIRM]),
            release: Compiled::new(&[COMMON, RELEASE]),
            set_state: Compiled::new(&[COMMON, SET_STATE]),
            beat: Compiled::new(&[COMMON, BEAT]),
            metrics: Compiled::new(&[COMMON, METRICS]),
            deregister: Compiled::new(&[COMMON, DEREGISTER]),
            member: Compiled::new(&[MEMBER]),
            register: Compiled::new(&[COMMON, REGISTER]),
        }
    }
}

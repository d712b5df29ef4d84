"""What a hub does in Redis: the names of its keys, and the scripts that run there.

A script is atomic: a publication is numbered, kept and delivered, or nothing happens. This module
uses no connections.

The keys of a topic, which are all in the same slot of a Redis Cluster:

``…{topic}:meta``
    a hash: ``e`` the epoch, ``o`` the newest offset, ``r`` the run of Redis that numbered it,
    ``p`` earlier epochs, each with the newest offset that survived it
``…{topic}:past``
    a stream, the history; the ID of an entry is ``offset-milliseconds``
``…{topic}:seen``, ``…{topic}:order``
    a hash from (session, sequence) to offset and milliseconds, and a list of them in order
``…{topic}:here``
    a hash from members, as ``process:member``, to their info
``…{topic}``
    the channel; publications on it are ``epoch offset json``

In addition, ``…process:NAME`` exists as long as an OS process reports that it is alive.

A restarted Redis may have lost its most recent data, and would then assign the same offsets to
other publications. Therefore the first script in each run of Redis begins a new epoch and records
where it began: a reader that had not read beyond that point has lost nothing.
"""

from __future__ import annotations

from hashlib import sha1
from typing import NamedTuple

#: earlier epochs that are remembered for each topic
_PAST_EPOCHS = 8

_TOUCH = (
    """
local function number(n) return string.format('%.0f', n) end

-- The epoch and the newest offset of a topic, which is made, or renewed in a new run of Redis
local function touch(meta, past, run, fresh)
  local found = redis.call('HMGET', meta, 'e', 'o', 'r')
  local epoch, offset = found[1], tonumber(found[2] or '0')
  if not epoch or not found[2] then
    redis.call('HSET', meta, 'e', fresh, 'o', '0', 'r', run, 'p', '')
    -- of a numbering that is gone
    redis.call('DEL', past)
    return fresh, 0
  end
  if found[3] ~= run then
    local earlier = redis.call('HGET', meta, 'p') or ''
    local kept, count = epoch .. ' ' .. number(offset), 1
    for name, last in string.gmatch(earlier, '(%S+) (%S+)') do
      if count < """
    + str(_PAST_EPOCHS)
    + """ then kept = kept .. ' ' .. name .. ' ' .. last end
      count = count + 1
    end
    redis.call('HSET', meta, 'e', fresh, 'r', run, 'p', kept)
    epoch = fresh
  end
  return epoch, offset
end

local function milliseconds()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end
"""
)

#: KEYS: meta, past, seen, order
#: ARGV: run, fresh epoch, topic age, channel, json, history count, history age,
#:       session and sequence or '', window count, window age
#: Returns the offset, the epoch, and 1 when it was published before
_PUBLISH = """
local run, fresh, topic_age, channel, json = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local count, age, name = tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8]
local now = milliseconds()
local epoch, offset = touch(KEYS[1], KEYS[2], run, fresh)
if name ~= '' then
  local seen = redis.call('HGET', KEYS[3], name)
  if seen then
    local first, at = string.match(seen, '(%d+) (%d+)')
    if now - tonumber(at) <= tonumber(ARGV[10]) then
      return {tonumber(first), epoch, 1}
    end
  end
end
offset = redis.call('HINCRBY', KEYS[1], 'o', 1)
local id, failed = number(offset) .. '-' .. number(now), nil
if count > 0 then
  local kept = redis.pcall('XADD', KEYS[2], 'MAXLEN', '~', count, id, 'd', json)
  if kept.err and string.find(kept.err, 'equal or smaller', 1, true) then
    -- the last one was taken back in this same millisecond
    for _, word in ipairs(redis.call('XINFO', 'STREAM', KEYS[2])) do
      local last, at = string.match(tostring(word), '^(%d+)-(%d+)$')
      if last == number(offset) then id = last .. '-' .. number(tonumber(at) + 1) break end
    end
    kept = redis.pcall('XADD', KEYS[2], 'MAXLEN', '~', count, id, 'd', json)
  end
  if kept.err then failed = kept end
end
if not failed then
  local told = redis.pcall('PUBLISH', channel, epoch .. ' ' .. number(offset) .. ' ' .. json)
  if type(told) == 'table' and told.err then failed = told end
end
if failed then
  -- e.g. a user without the right to one of these commands: it was not published at all
  redis.call('HINCRBY', KEYS[1], 'o', -1)
  if count > 0 then redis.pcall('XDEL', KEYS[2], id) end
  return failed
end
if count > 0 then
  redis.call('PEXPIRE', KEYS[2], number(age + 1000))
  if offset % 16 == 0 then
    -- a few at a time: those that are too old
    local oldest = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 40)
    local old = {}
    for _, entry in ipairs(oldest) do
      if now - tonumber(string.match(entry[1], '-(%d+)')) > age then old[#old + 1] = entry[1] end
    end
    if #old > 0 then redis.call('XDEL', KEYS[2], unpack(old)) end
  end
end
redis.call('PEXPIRE', KEYS[1], topic_age)
if name ~= '' and tonumber(ARGV[9]) > 0 then
  redis.call('HSET', KEYS[3], name, number(offset) .. ' ' .. number(now))
  redis.call('RPUSH', KEYS[4], number(now) .. ' ' .. name)
  local length = redis.call('LLEN', KEYS[4])
  for _ = 1, 20 do
    local first = redis.call('LINDEX', KEYS[4], 0)
    local at, oldest = string.match(first, '^(%d+) (.*)$')
    if length <= tonumber(ARGV[9]) and now - tonumber(at) <= tonumber(ARGV[10]) then break end
    redis.call('LPOP', KEYS[4])
    length = length - 1
    -- unless it was published again since
    local seen = redis.call('HGET', KEYS[3], oldest)
    if seen and string.match(seen, ' (%d+)$') == at then redis.call('HDEL', KEYS[3], oldest) end
  end
  redis.call('PEXPIRE', KEYS[3], ARGV[10])
  redis.call('PEXPIRE', KEYS[4], ARGV[10])
end
return {offset, epoch, 0}
"""

#: KEYS: meta, past
#: ARGV: run, fresh epoch, topic age, history count, history age, epoch and offset of the position
#:       or '' and '', limit or 0
#: Returns the epoch, the newest offset, why the history does not reach back or '', and offsets and
#: publications in turn
_HISTORY = """
local count, age, limit = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[8])
local epoch, offset = touch(KEYS[1], KEYS[2], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
local after, reason = 0, ''
if ARGV[7] ~= '' then
  local since = tonumber(ARGV[7])
  if ARGV[6] == epoch then
    if since <= offset then after = since else reason = 'epoch' end
  else
    reason = 'epoch'
    local survived = offset
    for name, last in string.gmatch(redis.call('HGET', KEYS[1], 'p') or '', '(%S+) (%S+)') do
      survived = math.min(survived, tonumber(last))
      if name == ARGV[6] then
        if since <= survived then after, reason = since, '' end
        break
      end
    end
  end
end
local result = {epoch, offset, reason}
local first = math.max(after + 1, offset - count + 1)
if ARGV[7] == '' and limit > 0 then first = math.max(first, offset - limit + 1) end
local oldest = milliseconds() - age
while count > 0 and first <= offset do
  local entries = redis.call('XRANGE', KEYS[2], number(first), '+', 'COUNT', 100)
  for _, entry in ipairs(entries) do
    local number_, at = string.match(entry[1], '(%d+)-(%d+)')
    first = tonumber(number_) + 1
    if tonumber(at) >= oldest and (limit == 0 or #result < 3 + 2 * limit) then
      result[#result + 1] = tonumber(number_)
      result[#result + 1] = entry[2][2]
    end
  end
  if #entries < 100 or (limit > 0 and #result >= 3 + 2 * limit) then break end
end
if ARGV[7] ~= '' and reason == '' and after < offset and result[4] ~= after + 1 then
  result[3] = 'trimmed'
end
return result
"""


class Script(NamedTuple):
    """A script, and the name under which Redis knows it."""

    text: bytes
    sha: bytes


def _script(text: str) -> Script:
    source = (_TOUCH + text).encode()
    # Redis names scripts by this hash; its strength does not matter
    return Script(source, sha1(source, usedforsecurity=False).hexdigest().encode())


PUBLISH = _script(_PUBLISH)
HISTORY = _script(_HISTORY)


class Keys(NamedTuple):
    """The names of a topic's keys and channel."""

    meta: bytes
    past: bytes
    seen: bytes
    order: bytes
    here: bytes
    channel: bytes


#: the part in braces decides in which slot of a Redis Cluster a key is
_ESCAPES = str.maketrans({"%": "%25", "{": "%7B", "}": "%7D"})


def keys_of(prefix: str, topic: str) -> Keys:
    """Return the names of the keys of *topic*."""
    base = f"{prefix}{{{topic.translate(_ESCAPES)}}}".encode()
    return Keys(
        base + b":meta", base + b":past", base + b":seen", base + b":order", base + b":here", base
    )


def process_key(prefix: str, process: str) -> bytes:
    """Return the name of the key that exists while an OS process is alive."""
    return f"{prefix}process:{process}".encode()

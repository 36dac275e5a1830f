-- For wrk: sends prepared requests and ends with one line of JSON. Arguments: the method, then "-" or the file of
-- the body, then perhaps a file of further requests (a path, a tab, a tenant on each line), which take turns.
local prepared, at = {}, 0

function init(args)
  wrk.method = args[1] or "GET"
  if args[2] and args[2] ~= "-" then
    local file = assert(io.open(args[2], "rb"))
    wrk.body = file:read("*a")
    file:close()
  end
  if not args[3] then
    return
  end
  for line in io.lines(args[3]) do
    local path, tenant = line:match("^(.-)\t(.*)$")
    prepared[#prepared + 1] = wrk.format(nil, path, { Host = wrk.headers["Host"], ["X-Org-Id"] = tenant })
  end
  request = function()
    at = at % #prepared + 1
    return prepared[at]
  end
end

function done(summary, latency)
  io.write(string.format(
    '\n{"requests":%d,"seconds":%.6f,"bytes":%d,"failed":%d,"refused":%d,"p50":%.6f,"p99":%.6f}\n',
    summary.requests, summary.duration / 1e6, summary.bytes,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout,
    summary.errors.status, latency:percentile(50) / 1e6, latency:percentile(99) / 1e6))
end

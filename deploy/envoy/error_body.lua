-- Keeps from the gateway what would break its gRPC, and makes the gateway's own error the body. The gateway
-- aborts with trailing metadata that arrive here as headers, after the transcoder has turned the abort into an
-- HTTP status. Native gRPC stays as it is.
local UNKNOWN = {
  openai = '{"error":{"message":"The gateway could not answer.","type":"server_error","param":null,"code":"internal"}}',
  anthropic = '{"type":"error","error":{"type":"api_error","message":"The gateway could not answer."}}',
}
local UNDECODABLE = {
  openai = '{"error":{"message":"The request cannot be decoded: its texts must be UTF-8.","type":"invalid_request_error","param":null,"code":"invalid_request"}}',
  anthropic = '{"type":"error","error":{"type":"invalid_request_error","message":"The request cannot be decoded: its texts must be UTF-8."}}',
}
local NOT_JSON = {
  openai = '{"error":{"message":"This path takes JSON, not gRPC: send content-type application/json.","type":"invalid_request_error","param":null,"code":"invalid_request"}}',
  anthropic = '{"type":"error","error":{"type":"invalid_request_error","message":"This path takes JSON, not gRPC: send content-type application/json."}}',
}
local OVERLOADED = {
  openai = '{"error":{"message":"The gateway has as much to do as it can. Try again in a moment.","type":"server_error","param":null,"code":"overloaded"}}',
  anthropic = '{"type":"error","error":{"type":"overloaded_error","message":"The gateway has as much to do as it can. Try again in a moment."}}',
}
-- The gateway always says why. When it does not, these are its gRPC library's: its queue is full.
local FULL = {["1"] = true, ["8"] = true}
local CANCELLED, INVALID_ARGUMENT = "1", "3"
local UNAVAILABLE = "14"
-- What is refused by its head alone is read to its end up to so many bytes: over HTTP/2 an earlier answer comes
-- with a reset, which many clients take for an error.
local READ_FIRST = 65536
local INTERNAL = {"weaver-error-body", "weaver-http-status", "grpc-status", "grpc-message",
                  "grpc-status-details-bin", "grpc-accept-encoding"}
-- What of these a good answer can carry: the rest comes with an error.
local OF_SUCCESS = {"grpc-status", "grpc-message", "grpc-accept-encoding"}

local function is_grpc(content_type)
  return content_type ~= nil and content_type:find("^application/grpc%f[+;%z]") ~= nil
end

-- A call of gRPC itself says that it takes trailers; whoever does not would see 200 and nothing else.
local function is_mistaken(headers)
  local path = headers:get(":path")
  local json = path:find("/v1/", 1, true) == 1 or path:find("/health", 1, true) == 1
  return json and headers:get("te") ~= "trailers"
end

-- gRPC's own headers, and binary ones, mean something to a gRPC server that JSON's callers cannot know.
local byte, G, N, DASH = string.byte, ("gn-"):byte(1, 3)
local function remove_grpc_headers(headers)
  local found = {}
  for name, _ in pairs(headers) do
    -- Bytes first: every header of every request comes by here.
    if (byte(name) == G and byte(name, 5) == DASH and name:sub(1, 5) == "grpc-")
        or (byte(name, -1) == N and byte(name, -4) == DASH and name:sub(-4) == "-bin") then
      found[#found + 1] = name
    end
  end
  for _, name in ipairs(found) do headers:remove(name) end
end

-- A list may come as several headers of one name, of which the gateway would see one.
local function join(headers, name)
  local values = {}
  for index = 0, headers:getNumValues(name) - 1 do
    values[#values + 1] = headers:getAtIndex(name, index)
  end
  if #values > 1 then headers:replace(name, table.concat(values, ",")) end
end

function envoy_on_request(request)
  local headers = request:headers()
  local path, kind = headers:get(":path"), headers:get("content-type")
  -- Most calls are none of these, and a wrapper costs as much as all the rest.
  if path:find("/v1/m", 1, true) == 1 then
    local lists = path:find("/v1/models", 1, true) == 1 and headers:get("anthropic-version") ~= nil
    if lists or path:find("/v1/messages", 1, true) == 1 then
      request:streamInfo():dynamicMetadata():set("weaver", "dialect", "anthropic")
      join(headers, "anthropic-beta")
    end
  end
  if is_grpc(kind) then
    local metadata = request:streamInfo():dynamicMetadata()
    if is_mistaken(headers) then
      metadata:set("weaver", "mistaken", true)
    else
      metadata:set("weaver", "dialect", "grpc")
    end
    return
  end
  remove_grpc_headers(headers)
  -- HEAD is GET without a body (RFC 9110, section 9.3.2); the transcoder knows methods by their HTTP rules.
  if kind == nil and headers:get(":method") == "HEAD" then
    headers:replace(":method", "GET")
    request:streamInfo():dynamicMetadata():set("weaver", "head", true)
  end
  local encoding = headers:get("content-encoding")
  if encoding ~= nil and encoding:lower() ~= "identity" then
    local length = tonumber(headers:get("content-length"))
    if length ~= nil and length <= READ_FIRST then request:body() end
    request:respond({[":status"] = "415"}, "")
  end
end

-- What answers HEAD keeps the length that GET's answer has.
local function leave_out_body(reply)
  local body = reply:body()
  if body == nil then return end
  local length = tostring(body:length())
  body:setBytes("")
  reply:headers():replace("content-length", length)
end

function envoy_on_response(reply)
  local headers = reply:headers()
  local code = headers:get("grpc-status")
  if code == nil or code == "0" then
    if not is_grpc(headers:get("content-type")) then
      for _, name in ipairs(OF_SUCCESS) do headers:remove(name) end
      -- What is got has a length; what is generated, and that is most, has none.
      if headers:get("content-length") ~= nil then
        local known = reply:streamInfo():dynamicMetadata():get("weaver")
        if known ~= nil and known["head"] then leave_out_body(reply) end
      end
      -- Over HTTP/2 gRPC's end would stand behind the body. The answer itself does not wait for this.
      local trailers = reply:trailers()
      if trailers ~= nil then
        for _, name in ipairs(OF_SUCCESS) do trailers:remove(name) end
      end
    end
    return
  end
  local known = reply:streamInfo():dynamicMetadata():get("weaver") or {}
  local dialect = known["dialect"] or "openai"
  if dialect == "grpc" then
    -- A client that did not cancel would not try this again.
    if code == CANCELLED then headers:replace("grpc-status", UNAVAILABLE) end
    return
  end
  local body, status = headers:get("weaver-error-body"), headers:get("weaver-http-status")
  if known["mistaken"] then
    body, status = NOT_JSON[dialect], "415"
  elseif body == nil and FULL[code] then
    body, status = OVERLOADED[dialect], "503"
    headers:replace("retry-after", "1")
  elseif body == nil then
    body = (code == INVALID_ARGUMENT and UNDECODABLE or UNKNOWN)[dialect]
  end
  headers:replace("content-length", tostring(reply:body(true):setBytes(body)))
  headers:replace("content-type", "application/json")
  if status ~= nil then headers:replace(":status", status) end
  -- RFC 9110, section 11.6.1: who is not let in is told what to show.
  if headers:get(":status") == "401" then headers:replace("www-authenticate", 'Bearer realm="weaver"') end
  if known["head"] then leave_out_body(reply) end
  for _, name in ipairs(INTERNAL) do headers:remove(name) end
end

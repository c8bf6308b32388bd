-- Makes the gateway's own error the body. The gateway aborts with trailing metadata that arrive here as
-- headers, after the transcoder has turned the abort into an HTTP status. Native gRPC stays as it is.
local UNKNOWN = {
  openai = '{"error":{"message":"The gateway could not answer.","type":"server_error","param":null,"code":"internal"}}',
  anthropic = '{"type":"error","error":{"type":"api_error","message":"The gateway could not answer."}}',
}
local INTERNAL = {"weaver-error-body", "weaver-http-status", "grpc-status", "grpc-message",
                  "grpc-status-details-bin", "grpc-accept-encoding"}

function envoy_on_request(request)
  local headers = request:headers()
  local content_type = headers:get("content-type")
  if content_type ~= nil and content_type:find("application/grpc", 1, true) == 1 then
    request:streamInfo():dynamicMetadata():set("weaver", "dialect", "grpc")
  elseif headers:get(":path"):find("/v1/messages", 1, true) == 1 then
    request:streamInfo():dynamicMetadata():set("weaver", "dialect", "anthropic")
  end
end

function envoy_on_response(reply)
  local known = reply:streamInfo():dynamicMetadata():get("weaver")
  local dialect = known ~= nil and known["dialect"] or "openai"
  if dialect == "grpc" then return end
  local headers = reply:headers()
  local code = headers:get("grpc-status")
  if code ~= nil and code ~= "0" then
    local body = headers:get("weaver-error-body") or UNKNOWN[dialect]
    headers:replace("content-length", tostring(reply:body(true):setBytes(body)))
    headers:replace("content-type", "application/json")
    local status = headers:get("weaver-http-status")
    if status ~= nil then headers:replace(":status", status) end
  end
  for _, name in ipairs(INTERNAL) do headers:remove(name) end
end

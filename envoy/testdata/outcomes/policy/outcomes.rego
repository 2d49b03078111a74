# The second segment of the path chooses what goes wrong.
package envoy.authz

kind := input.parsed_path[1]

number := to_number(input.parsed_path[2])

allow if kind == "allow"

allow := false if kind == "deny"

# "undefined" has no decision.

allow := true if kind == "conflict"

allow := false if kind == "conflict"

allow := "yes" if kind == "string"

allow := ["allowed"] if kind == "array"

allow := null if kind == "null"

allow := {"body": "no allowed"} if kind == "no-allowed"

allow := {"allowed": "true"} if kind == "allowed-string"

allow if {
	kind == "builtin"
	numbers.range(1, 1.5)[0] == 1
}

allow if {
	kind == "division"
	1 / (number - number) == 1
}

allow := {"allowed": true, "n": count(endless)} if kind == "endless"

endless := [x | some i in numbers.range(1, 100000); some j in numbers.range(1, 100000); x := i * j]

allow := {"allowed": input.parsed_body.ok} if kind == "body"

allow := {"allowed": false, "http_status": number, "body": "not for you"} if kind == "status"

allow := {"allowed": false, "http_status": number} if kind == "plain-status"

# A string of n zeros, at most a million.
long(n) := sprintf(sprintf("%%0%dd", [n]), [0])

# What a policy may say that nobody should pass on.
allow := {"allowed": false, "body": hex.decode("fffe00c328")} if kind == "body-utf8"

allow := {"allowed": false, "reason": hex.decode("fffe00c328")} if kind == "reason-utf8"

allow := {"allowed": false, "reason": json.unmarshal("\"a\\u0000b\\u001b[2J\\r\\nset-cookie: x=1\\u007f\\ud800<script>\"")} if kind == "reason-control"

allow := {"allowed": false, "body": json.unmarshal("\"a\\u0000b\\r\\n\\u007f\"")} if kind == "body-control"

allow := {"allowed": false, "headers": {"x-a": hex.decode("ff")}} if kind == "header-utf8"

allow := {"allowed": false, "headers": {"x-a": "a\r\nset-cookie: x=1"}} if kind == "header-crlf"

allow := {"allowed": true, "headers": {"x-a": "a\r\nset-cookie: x=1"}} if kind == "allow-header-crlf"

allow := {"allowed": true, "response_headers_to_add": {"x-a": "a\u0000"}} if kind == "allow-response-nul"

allow := {"allowed": false, "headers": {":status": "200"}} if kind == "header-status"

allow := {"allowed": false, "headers": {"content-length": "0"}} if kind == "header-length"

allow := {"allowed": false, "headers": {"": "x"}} if kind == "header-nameless"

allow := {"allowed": false, "headers": {"x-long": long(number)}} if kind == "header-long"

allow := {"allowed": false, "headers": {sprintf("x-%d", [i]): long(100) | some i in numbers.range(1, number)}} if kind == "headers-many"

allow := {"allowed": false, "body": concat("", [long(number), long(number), long(number)])} if kind == "body-long"

allow := {"allowed": false, "dynamic_metadata": {"a": hex.decode("ff")}} if kind == "metadata-utf8"

allow := {"allowed": false, "dynamic_metadata": {"a": json.unmarshal("1e400")}} if kind == "metadata-number"

allow := {"allowed": false, "dynamic_metadata": json.unmarshal(concat("", [
	replace(long(number), "0", "{\"a\":"), "1", replace(long(number), "0", "}"),
]))} if kind == "metadata-objects"

allow := {"allowed": false, "dynamic_metadata": {"a": json.unmarshal(concat("", [
	replace(long(number), "0", "["), "1", replace(long(number), "0", "]"),
]))}} if kind == "metadata-arrays"

allow := {"allowed": false, "dynamic_metadata": {"a": long(number), "b": long(number), "c": long(number)}} if kind == "metadata-long"

allow := {"allowed": false, "body": json.unmarshal(input.attributes.request.http.headers["x-body"])} if kind == "body-from-header"

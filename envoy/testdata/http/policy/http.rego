# The first segment of the path chooses the answer.
package envoy.authz

first := input.parsed_path[0]

allow if first in {"", "open", "healthz"}

allow := false if first == "no"

allow := {"allowed": false, "http_status": to_number(input.parsed_path[1]), "body": "no"} if first == "deny"

allow := {"allowed": false, "http_status": 302, "headers": {"location": "https://elsewhere.example.com/"}} if first == "redirect"

allow := "yes" if first == "wrong"

# "nothing" has no decision.

allow := {
	"allowed": true,
	"headers": {"x-tenant": "blue"},
	"request_headers_to_remove": ["x-remove-me"],
	"response_headers_to_add": {"x-served-by": "gatehouse", "x-auth-roles": "none of the client's business"},
} if first == "headers"

allow := {"allowed": true, "query_parameters_to_set": {"tenant": "blue"}} if first == "query"

allow := {"allowed": input.parsed_body.open} if first == "body"

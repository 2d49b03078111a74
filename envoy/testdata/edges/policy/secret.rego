package envoy.authz

default allow := true

path := input.parsed_path[0]

# Parameters with every kind of character, and some that Envoy takes under validate_mutations.
allow := {
	"allowed": true,
	"query_parameters_to_set": {"tenant": "Acme&debug=1", "last name": "Jürgen", "tag": ["a+b", "Acme Ltd"]},
	"query_parameters_to_remove": ["debug"],
} if path == "set"

allow := {
	"allowed": true,
	"query_parameters_to_set": {"tenant": "acme"},
	"query_parameters_to_remove": ["debug"],
} if path == "plain"

allow := {"allowed": true, "request_headers_to_remove": ["x-debug"]} if path == "headers"

allow := {"allowed": false, "http_status": to_number(input.parsed_path[1])} if path == "deny"

allow := {"allowed": false, "body": ""} if path == "empty"

# What Envoy does not take under validate_mutations, though nothing in it is escaped.
allow := {"allowed": true, "query_parameters_to_set": {"tilde": "~", "list": ["a", "b"], "none": ""}} if path == "odd"

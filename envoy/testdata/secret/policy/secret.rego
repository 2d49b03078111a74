# The kind of policy that path tricks are made for: one path is denied and everything else is allowed. Whatever another
# policy lets through by prefix, this one lets through as well.
package envoy.authz

default allow := true

allow := false if {
	input.parsed_path == ["admin", "secret"]
	not invited
}

# Dry run lets this one through all the same.
allow := false if input.parsed_path == ["headers", "dry"]

invited if input.attributes.request.http.headers["x-let-me"] == "in"

# What the rules of the routes have in common.
package roles

has(role) if role in input.identity.roles

# data.json lists what each role may do.
may(act) if {
	some role in input.identity.roles
	act in data.acts[role]
}

self(name) if {
	input.identity.authenticated
	name == input.identity.subject
}

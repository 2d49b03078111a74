# Which role may use which route. The table is in data.json, as gatehouse routes list shows the routes:
#
#   roles   each role's routes, as in "GET /orders/<int:id>"
#   anyone  routes that need no login
#
# What is in neither is denied.
package todos

default allow := false

allow if {
	some role in input.identity.roles
	some route in asked
	route in data.roles[role]
}

allow if {
	some route in asked
	route in data.anyone
}

# Everybody who is known reads the list of their own.
allow if {
	input.route.name == "todo-of-owner"
	input.identity.authenticated
	input.resource.owner == input.identity.subject
}

# What the request asks for, as the table has it.
asked contains concat(" ", [input.route.method, input.route.template])

# Whoever may GET may ask for the headers alone.
asked contains concat(" ", ["GET", input.route.template]) if input.route.method == "HEAD"

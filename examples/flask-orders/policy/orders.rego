# Who may do what with orders. What a role may do, and its limit, is in data.json. Who has which role, whose an order is, and with whom it is
# shared, is in the directory.
package envoy.authz

# The decision that gatehouse.yaml names. Nothing is allowed unless the first branch says so; the others say why not.
allow := {"allowed": true} if {
	granted
	within_limit
} else := {"allowed": false, "reason": sprintf("the amount is over your limit of %v", [limit])} if {
	granted
} else := {"allowed": false, "reason": "log in first"} if {
	not input.identity.authenticated
} else := {"allowed": false, "reason": sprintf("you need %s for this", [permission])} if {
	permission
} else := {"allowed": false, "reason": "the orders API has nothing here"}

# --- What is asked for

method := input.attributes.request.http.method

path := input.parsed_path

reads if method in {"GET", "HEAD"}

all_orders if path == ["orders"]

order_id := path[1] if {
	count(path) == 2
	path[0] == "orders"
}

owner := path[1] if {
	count(path) == 3
	path[0] == "users"
	path[2] == "orders"
}

# The permission that the request needs; undefined for what the API does not have.
permission := "orders:read" if {
	reads
	all_orders
}

permission := "orders:read" if {
	reads
	order_id
}

permission := "orders:read" if {
	reads
	owner
}

permission := "orders:create" if {
	method == "POST"
	owner
}

permission := "orders:update" if {
	method == "PUT"
	order_id
}

permission := "orders:delete" if {
	method == "DELETE"
	order_id
}

# --- Who gets it

# Anyone may see that the service is up.
granted if {
	reads
	path == ["healthz"]
}

# By role: data.json lists the permissions of each. The directory says who has which, through groups too.
granted if {
	some role in input.user.roles
	permission in data.roles[role].permissions
}

# The same for roles in the token, where the identity provider puts some there.
granted if {
	some role in input.identity.roles
	permission in data.roles[role].permissions
}

# By attribute: what a role may do with the caller's own orders only.
granted if {
	input.identity.authenticated
	owner == input.identity.subject
	some role in roles
	permission in data.roles[role].own
}

# By relation: the directory's manifest says what follows from being the owner of an order, or its reader.
granted if ds.check({
	"object_type": "order",
	"object_id": order_id,
	"relation": on_order[permission],
	"subject_type": "user",
	"subject_id": input.user.id,
})

on_order := {"orders:read": "can_read", "orders:delete": "can_delete"}

# The caller's roles, wherever they are from.
roles contains role if some role in input.user.roles

roles contains role if some role in input.identity.roles

# --- How much

# The highest limit among the caller's roles. Whoever writes an amount needs one.
limit := max([data.roles[role].limit | some role in roles])

writes_amount if permission in {"orders:create", "orders:update"}

within_limit if not writes_amount

within_limit if {
	writes_amount
	not input.truncated_body
	is_number(input.parsed_body.amount)
	input.parsed_body.amount <= limit
}

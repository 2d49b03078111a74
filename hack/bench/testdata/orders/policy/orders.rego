# Who may do what with orders. The roles, the limits and the access list are in data.json.
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

# By role: data.json lists the permissions of each.
granted if {
	some role in input.identity.roles
	permission in data.roles[role].permissions
}

# By attribute: what a role may do with the caller's own orders only.
granted if {
	input.identity.authenticated
	owner == input.identity.subject
	some role in input.identity.roles
	permission in data.roles[role].own
}

# By access list: one person and one order.
granted if {
	input.identity.authenticated
	permission in data.acl[order_id][input.identity.subject]
}

# --- How much

# The highest limit among the caller's roles. Whoever writes an amount needs one.
limit := max([data.roles[role].limit | some role in input.identity.roles])

writes_amount if permission in {"orders:create", "orders:update"}

within_limit if not writes_amount

within_limit if {
	writes_amount
	not input.truncated_body
	is_number(input.parsed_body.amount)
	input.parsed_body.amount <= limit
}

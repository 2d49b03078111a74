package authzen

default allow := false

allow if {
	input.action.name in {"can_read_user", "can_read_todos", "GET"}
	input.user.id
}

allow if {
	input.action.name in {"can_create_todo", "POST", "PUT", "DELETE"}
	writes
}

allow if {
	input.action.name in {"can_update_todo", "can_delete_todo"}
	writes
	input.resource.properties.ownerID == input.user.id
}

allow if {
	input.action.name == "can_update_todo"
	"evil_genius" in input.user.roles
}

allow if {
	input.action.name == "can_delete_todo"
	"admin" in input.user.roles
}

writes if {
	some role in input.user.roles
	role in {"editor", "admin"}
}

# What the rules of the routes have in common.
package may

# may.on("file", "roadmap", "can_read"): the directory says that the caller may. Callers that it does not know have no input.user: for
# them this is undefined, and the rule's default holds.
on(type, id, permission) if ds.check({
	"object_type": type,
	"object_id": id,
	"relation": permission,
	"subject_type": "user",
	"subject_id": input.user.id,
})

# DELETE /files/{file_id}   (delete_file)
package drive.DELETE.files.__file_id

import data.may

default allowed := false

allowed if may.on("file", input.resource.file_id, "can_delete")

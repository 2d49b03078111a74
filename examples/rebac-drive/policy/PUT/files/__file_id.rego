# PUT /files/{file_id}   (write_file)
package drive.PUT.files.__file_id

import data.may

default allowed := false

allowed if may.on("file", input.resource.file_id, "can_write")

# GET /files/{file_id}   (read_file)
package drive.GET.files.__file_id

import data.may

default allowed := false

allowed if may.on("file", input.resource.file_id, "can_read")

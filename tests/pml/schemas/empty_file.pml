<!-- empty_file.pml:2:1: holds no tag; expected <schema> or <prompt> -->

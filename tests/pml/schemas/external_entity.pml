<!-- external_entity.pml:2:1: <!DOCTYPE> is not allowed in PML; expected tags and text -->
<!DOCTYPE schema [<!ENTITY x SYSTEM "file:///etc/passwd">]>
<schema name="s">&x;</schema>

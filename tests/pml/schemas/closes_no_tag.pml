<!-- closes_no_tag.pml:3:7: </modul> closes no open tag; expected </schema>, for <schema> in line 2 -->
<schema name="s">
  text</modul>
</schema>

<!-- unknown_entity.pml:3:7: unknown entity; expected "&lt;" for "<" and "&amp;" for "&", or <![CDATA[…]]> around code -->
<schema name="s">
  salt&nbsp;pepper
</schema>

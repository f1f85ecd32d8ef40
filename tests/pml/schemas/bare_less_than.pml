<!-- bare_less_than.pml:3:29: not well-formed; expected "&lt;" for "<" and "&amp;" for "&", or <![CDATA[…]]> around code -->
<schema name="s">
  <module name="code">if a < b: pass</module>
</schema>
